"""The report: what it collects, what it draws, and the page in a real browser."""

from __future__ import annotations

import base64
import contextlib
import html.parser
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from esd import UserError
from esd.command.entry import CONF
from esd.metrics.counts import mean_figure, rate_figure
from esd.report import attacks, charts
from esd.report import page as pages


def make_sweep(folder):
    """A sweep as training leaves it: three runs that ended, one that failed, one that was cut off."""
    figures = [(40, 84), (0, 80), (10, 60)]
    cases = [("pizza", "esd-x", 0.5), ("pizza", "esd-u", 2.0), ("<b>cat</b> & co", "esd-x", 10.0)]
    for n, (concept, layers, eta) in enumerate(cases):
        run = folder / f"{n}-run"
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "config.yaml").write_text("eta: 1\n")
        seen, kept = figures[n]
        record = {
            "concept": [concept], "eta": eta, "layers": layers, "trajectories": {"name": "pool"}, "steps": 200, "lr": 5e-4,
            "preserve": None, "command": f"python -m esd.train concept='{concept}' eta={eta}",
        }  # fmt: skip
        after = {"erased": rate_figure(seen, 48), "erased_styled": rate_figure(seen, 48), "kept": rate_figure(kept, 84)}
        before = {"erased": rate_figure(48, 48), "erased_styled": rate_figure(47, 48), "kept": rate_figure(84, 84)}
        figures_of = {"base": before, "edit": after | {"kept_distance": mean_figure([0.1, 0.2])}}
        metrics = {"training_seconds": 9.5 + n, "protocol": "emoji-short", **figures_of, "record": record}
        metrics["lost"] = [{"group": "lookalikes", "name": "fox", "base": [8, 8], "edit": [0, 8]}] if n == 2 else []
        (run / "metrics.json").write_text(json.dumps(metrics))
        Image.effect_noise((900, 260), 60).convert("RGB").save(run / "grid.png")
        lines = [f"0,{i},{1 / (i + 1 + n)},1" for i in range(0, 400, 10)]
        (run / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,train/loss_t0-250", *lines, ""]))
    for n, error in ((3, "UserError: the loss is not finite"), (4, None)):
        run = folder / f"{n}-run"
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "config.yaml").write_text("eta: 1\n")
        (run / ".hydra" / "overrides.yaml").write_text("- concept=owl\n- eta=100\n")
        if error:
            (run / "error.txt").write_text(error + "\nTraceback …\n")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = make_sweep(tmp_path_factory.mktemp("sweep"))
    done = subprocess.run([sys.executable, "-m", "esd.report", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 runs, 2 failed" in done.stdout
    return folder / "report.html"


def test_the_page_names_what_was_lost(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("lost: fox (8 → 0 of 8)") == 1 and text.count('<td data-name="lost" data-value="1">fox</td>') == 1
    assert text.count('<td data-name="lost" data-value="0"></td>') == 2


def test_pareto_keeps_what_nothing_beats():
    points = [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (0.4, 0.4), (0.5, 0.5), (1.0, -1.0)]
    assert charts.pareto(points) == [0, 2, 1]


def test_axes_hold_their_values():
    x, y = charts.axes([0.2, 0.8], [1.0, 1.0])
    assert charts.LEFT < x.at(0.2) < x.at(0.8) < charts.WIDTH and y.at(0.9) > y.at(1.0)
    assert charts.Axis(0, 1, 0, 100).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(x.low <= tick <= x.high for tick in x.ticks())


def test_thinned_curves_keep_their_mean():
    points = [(float(i), float(i % 7)) for i in range(1000)]
    thin = charts.thin(points, 100)
    assert len(thin) == 100 and sum(y for _, y in thin) / 100 == pytest.approx(sum(y for _, y in points) / 1000)


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside, self.ids, self.inside = [], set(), []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            if name in ("src", "href") and value.startswith("#"):
                self.inside.append(value[1:])
            elif name in ("src", "href") and not value.startswith("data:"):
                self.outside.append(value)


def test_the_page_is_whole_and_safe(page):
    text, links = page.read_text(encoding="utf-8"), Links()
    links.feed(text)
    assert links.outside == [] and "://" not in text  # nothing from anywhere else
    assert set(links.inside) <= links.ids
    assert "<b>cat</b>" not in text and "&lt;b&gt;cat&lt;/b&gt; &amp; co" in text  # what users typed stays text
    assert "python -m esd.train concept=owl eta=100" in text and "the loss is not finite" in text and "still running" in text
    assert "41.7 % (40 of 96)" not in text and "58.3 % (56 of 96)" not in text and "erased 16.7 % (16 of 96)" in text


def test_the_title_says_what_in_words_and_when(tmp_path):
    runs, _ = pages.collect([str(make_sweep(tmp_path / "2026-01-03"))])
    assert pages.title_of(runs, []) == "pizza and <b>cat</b> & co erased, over η and layers, 3 January 2026"
    assert pages.title_of(runs[:1], []) == "pizza erased, 3 January 2026"
    assert pages.title_of([], []) == "Nothing erased"


def test_the_chart_holds_the_base_model_and_every_whisker(tmp_path):
    runs, _ = pages.collect([str(make_sweep(tmp_path))])
    chart = pages.scatter(runs)
    (base,) = chart["bases"]
    across, up = (charts.LEFT, charts.WIDTH - charts.RIGHT), (charts.TOP, charts.HEIGHT - charts.BOTTOM)
    for point in chart["points"]:
        assert base["x"] < point["x"] and base["y"] <= point["y"]  # nothing is gone of it, and all is right
        assert all(across[0] <= x <= across[1] for x in point["wide"]) and all(up[0] <= y <= up[1] for y in point["high"])
        assert point["wide"][0] < point["wide"][1] and point["high"][0] > point["high"][1]
    assert across[0] <= base["x"] <= across[1] and up[0] <= base["y"] <= up[1]


def test_a_rule_has_one_colour_on_every_page_and_a_negative_prompt_its_name(tmp_path):
    runs, _ = pages.collect([str(make_sweep(tmp_path))])
    every, some = pages.series_of(runs), pages.series_of([run for run in runs if run.layers == "esd-u"])
    assert some["esd-u"] == every["esd-u"] != every["esd-x"] and max(every.values()) < len(pages.RULES)
    result = {
        "kind": "negative prompt", "concept": ["pizza"], "record": {}, "base": {}, "edit": {}, "grid": "n.png", "command": "",
    }  # fmt: skip
    (run,) = pages.lines_of({"results": {"negative-pizza": result}, "protocol": "emoji"}, tmp_path)
    assert run.layers == "negative prompt" and run.concept == "pizza" and pages.series_of([run]).keys() == {"negative prompt"}
    assert {path.stem for path in (CONF / "layers").glob("*.yaml")} - {"default"} <= set(pages.RULES)


def test_bad_folders_are_told_in_one_line(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    for folder, words in ((tmp_path / "gone", "is no folder"), (tmp_path, "is damaged")):
        done = subprocess.run([sys.executable, "-m", "esd.report", str(folder)], capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


class Browser:
    """A headless Chromium, spoken to as WebDriver has it (w3.org/TR/webdriver2)."""

    def __init__(self, port):
        self.root = f"http://127.0.0.1:{port}/session"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.root += "/" + self.post("", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def post(self, path, body):
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script):
        return self.post("/execute/sync", {"script": script, "args": []})

    def command(self, name, **parameters):
        return self.post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def picture(self, path, width, scheme):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(self.root, method="DELETE"), timeout=20)


@pytest.fixture(scope="module")
def browser():
    driver = shutil.which("chromedriver")
    if not driver or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium with its chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        one = Browser(port)
        yield one
        one.close()
    finally:
        process.terminate()
        process.wait(20)


def test_in_a_real_browser(page, browser):
    browser.post("/url", {"url": page.as_uri()})
    column = "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[1].dataset.value)"
    click = "document.querySelectorAll('table.sortable th button')[1].click();"
    assert browser.run(column) == ["0.5", "2.0", "10.0"]
    assert browser.run(click + column) == ["0.5", "2.0", "10.0"]  # by number: 10 is more than 2
    assert browser.run(click + column) == ["10.0", "2.0", "0.5"]
    assert browser.run("return document.querySelectorAll('th[aria-sort=descending]').length") == 1
    sizes = "return Promise.all([...document.images].map(i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth))))"
    assert browser.run(sizes) == [900, 900, 900]
    assert browser.run("return document.querySelectorAll('svg circle').length") == 3
    assert browser.run("return document.querySelectorAll('path.curve').length") == 3
    errors = [entry for entry in browser.post("/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(page, browser, width, scheme, tmp_path):
    browser.post("/url", {"url": page.as_uri()})
    browser.picture(tmp_path / f"{width}-{scheme}.png", width, scheme)
    assert browser.run("return document.documentElement.scrollWidth") <= width  # on a phone a line of the table is a card
    red = int(browser.run("return getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light")
    ends = "return Math.max(...[...document.querySelectorAll('td, th, img, code')].map(e => e.getBoundingClientRect().right))"
    assert width > 600 or browser.run(ends) <= width
    browser.run("document.querySelector('.large').click()")
    assert browser.run("return document.querySelector('dialog').open && document.querySelectorAll('dialog img').length") == 1


def make_attack(folder):
    """What esd.attack leaves of one edit: an attack at two budgets beside its control, and one of tries without one."""
    seen = {("inversion", 80): (17, 0), ("inversion", 200): (28, 4), ("words", 0): (1, None)}
    figures = []
    for (attack, steps), (edit, never) in seen.items():
        line = {"variant": "run", "attack": attack, "steps": steps, "edit": rate_figure(edit, 32), "concepts": ["pizza"]}
        if never is not None:
            line |= {"never": rate_figure(never, 32), "kept": rate_figure(16, 16), "passed": attack == "inversion"}
            line["excess"] = {"mean": (edit - never) / 32, "interval": [0.3, 0.9], "of": 32, "over": "pictures"}
        figures.append(line)
    edits = {"run": {"path": "run", "concept": ["pizza"], "record": {"layers": "esd-u"}}}
    metrics = {"command": "python -m esd.attack edit=run", "control": "a twin", "edits": edits, "figures": figures}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    Image.effect_noise((300, 100), 60).convert("RGB").save(folder / "grid-pizza-run.png")


def test_attacks_have_a_section_with_the_controls_curve_beside_the_edits(tmp_path):
    make_attack(tmp_path / "attack")
    (its,) = attacks.attacks_in([str(tmp_path)])
    (chart,) = attacks.attack_charts([its])  # of tries there is no curve
    edit, control = chart["lines"]
    heights = [[float(point.split()[1]) for point in line["path"][1:].split("L")] for line in (edit, control)]
    assert control["control"] and not edit["control"] and all(above < below for above, below in zip(*heights, strict=True))
    text = pages.page(*pages.collect([str(tmp_path)]), [its], "here")
    assert "pizza under attack" in text and "+53 (+30 to +90)" in text and "python -m esd.attack edit=run" in text
    assert text.count('stroke-dasharray="6 5"') == 1 and text.count("data:image/webp") == 1 and "tries" in text
    links = Links()
    links.feed(text)
    assert set(links.inside) <= links.ids and links.outside == []


def test_an_attack_that_is_not_as_written_is_told_in_a_line(tmp_path):
    make_attack(tmp_path / "attack")
    file = tmp_path / "attack/metrics.json"
    file.write_text(file.read_text().replace('"hits": 17', '"hist": 17'))
    with pytest.raises(UserError, match="is not as esd.attack writes it"):
        attacks.attacks_in([str(tmp_path)])

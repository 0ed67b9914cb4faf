"""The attacks' study as curves: what comes back over an attack's steps, and dashed the same attack where it never was."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Template

from esd.report import charts

COLOURS = {"esd-x": "#2563eb", "kv": "#d97706", "esd-u": "#059669", "esd-all": "#be185d"}
PANEL = Template(
    """<g transform="translate({{ left }})"><text x="{{ chart.LEFT }}" y="-8" font-weight="bold">{{ attack }}</text>
{% for at, words in y %}<path d="M{{ chart.LEFT }} {{ at }}H{{ chart.WIDTH - chart.RIGHT }}" stroke="#e5e7eb"/>
<text x="{{ chart.LEFT - 8 }}" y="{{ at + 5 }}" text-anchor="end">{{ words }}</text>{% endfor %}
{% for at, words in x %}<text x="{{ at }}" y="{{ chart.HEIGHT - chart.BOTTOM + 22 }}" text-anchor="middle">{{ words }}</text>
{% endfor %}<text x="{{ chart.WIDTH / 2 }}" y="{{ chart.HEIGHT - 12 }}" text-anchor="middle">steps of the attack</text>
{% for line in lines %}<path d="{{ line.path }}" fill="none" stroke="{{ line.colour }}" stroke-width="3"
{%- if line.never %} stroke-dasharray="7 6"{% endif %}><title>{{ line.title }}</title></path>
{% endfor %}</g>
"""
)
SHEET = Template(
    """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -60 {{ width }} {{ height + 60 }}" font-size="16"
 font-family="sans-serif">
<rect y="-60" width="{{ width }}" height="{{ height + 60 }}" fill="white"/>
{% for name, colour in legend %}<rect x="{{ 76 + 110 * loop.index0 }}" y="-52" width="14" height="14" fill="{{ colour }}"/>
<text x="{{ 96 + 110 * loop.index0 }}" y="-39">{{ name }}</text>{% endfor %}
<text x="{{ width - 20 }}" y="-39" text-anchor="end">solid: seen; dashed: where it never was</text>
{% for panel in panels %}{{ panel }}{% endfor %}</svg>
"""
)


def drawn(figures: Sequence[dict]) -> str:
    """An SVG with a panel for each attack that has several budgets. figures: of the study's rules (not of its styles)."""
    panels = []
    for attack in dict.fromkeys(line["attack"] for line in figures):
        its = [line for line in figures if line["attack"] == attack and line["steps"] and line["variant"] in COLOURS]
        x, y = charts.axes([0, *(line["steps"] for line in its)], [0, 1])
        lines = []
        for rule in COLOURS:
            for row in ("edit", "never"):
                seen = sorted((line["steps"], line[row]["rate"]) for line in its if line["variant"] == rule and row in line)
                if len(seen) > 1:
                    path = charts.path([(x.at(step), y.at(rate)) for step, rate in seen])
                    title = f"{rule}: " + ("where it never was" if row == "never" else "seen")
                    lines.append({"path": path, "colour": COLOURS[rule], "never": row == "never", "title": title})
        if lines:
            facts = {"x": charts.ticks(x), "y": charts.ticks(y, 100, " %"), "lines": lines, "left": charts.WIDTH * len(panels)}
            panels.append(PANEL.render(attack=attack, chart=charts, **facts))
    legend = [(rule, colour) for rule, colour in COLOURS.items() if any(line["variant"] == rule for line in figures)]
    return SHEET.render(width=charts.WIDTH * len(panels), height=charts.HEIGHT, panels=panels, legend=legend)

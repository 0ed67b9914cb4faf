"""make faults: every fault, tried many times on real runs. Prints what was tried how often, what was lost and what was wrong.

python tests/faults/table.py [--kills 200] [--others 36] [--seed 0] [--workers 2] [--only resumed]
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from harness import ROOT, Server
from trials import Faults, Outcome

sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

TEXT = """Real runs on a tiny model are killed, signalled, starved of disk and memory, and given damaged files, at random \
moments. Lost: work that `resume=` does not bring back, or an `edit.safetensors` that differs from an undisturbed run's by one \
byte. Wrong: any other breach of what is promised. A blow that came too late is not counted. Bad input, hostile files, several \
devices, W&B refusing and odd places are tried by `tests/faults/` on every `make test`."""


def tried(options: argparse.Namespace, model: Path, folder: Path) -> list[Outcome]:
    """All trials, spread over workers with a server each."""
    rare = max(1, options.others // 6)
    plan = queue.SimpleQueue()
    for method, times in (
        ("killed", options.kills), ("signalled", options.others), ("full_disk", options.others), ("damaged", options.others),
        ("resumed", options.others // 2), ("not_finite", rare), ("out_of_memory", rare),
    ):  # fmt: skip
        for number in range(times if options.only in (None, method) else 0):
            plan.put((method, number))
    outcomes, started = [], time.monotonic()

    def work(name: str) -> None:
        server = Server()
        (folder / name).mkdir()
        faults = Faults(server, model, folder / name, options.seed)
        while True:
            try:
                method, number = plan.get_nowait()
            except queue.Empty:
                break
            try:
                outcome = getattr(faults, method)(number)
            except Exception as error:  # noqa: BLE001  (a trial that breaks is a trial that failed)
                outcome = Outcome(method, wrong=f"{type(error).__name__}: {error}")
            outcomes.append(outcome)
            if outcome.lost or outcome.wrong:
                print(f"{method} {number}: {outcome}", flush=True)
            elif len(outcomes) % 25 == 0:
                print(f"{len(outcomes)} tried in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        server.close()

    workers = [threading.Thread(target=work, args=(str(n),), daemon=True) for n in range(options.workers)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        print("interrupted: the table is of what was tried so far", file=sys.stderr)
    return list(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--others", type=int, default=36, help="signals, full disks and damaged files, of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--only", help="one method of trials.Faults: killed, signalled, resumed, …")
    options = parser.parse_args()
    from tiny import tiny_pipeline

    from esd.report.result import GALLERY, write_result

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = tiny_pipeline(Path(folder) / "tiny")
        outcomes = tried(options, model, Path(folder))
    columns, rows = ["fault", "tried", "lost", "wrong"], []
    counted = [outcome for outcome in outcomes if outcome.struck or outcome.lost or outcome.wrong]
    for fault in dict.fromkeys(outcome.fault.partition(", ")[0] for outcome in counted):
        tried_so = [outcome for outcome in counted if outcome.fault.partition(", ")[0] == fault]
        where = Counter(outcome.fault.partition(", ")[2] for outcome in tried_so)
        named = f" ({', '.join(f'{place} {times}' for place, times in sorted(where.items()))})" if any(where) else ""
        lost, wrong = (sum(bool(getattr(outcome, kind)) for outcome in tried_so) for kind in ("lost", "wrong"))
        rows.append([f"{fault}{named}", len(tried_so), lost, wrong])
    for cells in (columns, ["---"] * 4, *rows):
        print(f"| {' | '.join(map(str, cells))} |")
    if not options.only:  # the page has the whole table, or none
        write_result(
            "faults", title="Nothing lost", text=TEXT, command="make faults", columns=columns, rows=rows,
            makers=["tests/faults/table.py", "tests/faults/trials.py", "tests/faults/harness.py"],
            weights="random (a tiny model)", folder=ROOT / GALLERY,
        )  # fmt: skip
    sys.exit(any(outcome.lost or outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    main()

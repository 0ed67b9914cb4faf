"""python -m esd.report DIR…: one self-contained HTML page of a sweep, of runs, of evaluations or of attacks."""

from __future__ import annotations

from pathlib import Path

from esd import UserError
from esd.command.entry import ArgumentParser, fail
from esd.files import atomic_write
from esd.report.attacks import attacks_in
from esd.report.page import collect, page


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.report", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a sweep's folder, runs' folders, evaluations' or attacks'")
    folders = parser.parse_args().folders
    try:
        runs, failed = collect(folders)
        attacked = attacks_in(folders)
        if not runs and not failed and not attacked:
            raise UserError(f"no runs under {', '.join(folders)}: nothing there left a metrics.json or a .hydra/config.yaml")
        file = Path(folders[0]) / "report.html"
        with atomic_write(file) as temporary:
            temporary.write_text(page(runs, failed, attacked, Path(folders[0]).resolve().name), encoding="utf-8")
    except UserError as mistake:
        fail(str(mistake))
    under = f", {len(attacked)} under attack" if attacked else ""
    print(f"{len(runs)} runs, {len(failed)} failed{under}: {file}")


if __name__ == "__main__":
    main()

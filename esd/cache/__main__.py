"""python -m esd.cache: what is kept of the frozen model for other runs (walks, and its pictures), shown or removed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

WALKS = ("concept", "erased from", "walks", "time steps", "base", "MB")
PICTURES = ("protocol", "pictures", "steps", "precision", "base", "MB")


def facts_of(path: Path) -> list[str]:
    """What a file holds, as a line of its table."""
    try:
        with safe_open(path, "pt") as file:
            of = json.loads(file.metadata()["of"])
        if "pictures" in of:
            return [of["protocol"], str(of["pictures"]), str(of["steps"]), of["precision"], of["base"][:12]]
        return [of["c"], of["f"] or "∅", str(of["walks"]), str(len(of["timesteps"])), of["base"][:12]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return [path.name, "damaged: made again when it is needed", "", "", ""]


def main() -> None:
    """python -m esd.cache shows the frozen model's walks and pictures that are kept; python -m esd.cache clear removes them."""
    import os

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from esd.command.entry import ArgumentParser, fail

    default = Path(os.environ.get("ESD_CACHE", "outputs/cache"))
    parser = ArgumentParser(prog="python -m esd.cache", description=main.__doc__)
    parser.add_argument("action", nargs="?", choices=["show", "clear"], default="show", help="show (the default) or clear")
    parser.add_argument("--folder", type=Path, default=default, help=f"where they lie ({default})")
    options = parser.parse_args()
    if options.folder.exists() and not options.folder.is_dir():
        fail(f"--folder {options.folder} is a file")
    console, count, total = Console(highlight=False, markup=False), 0, 0
    for folder, headings in ((options.folder, WALKS), (options.folder / "pictures", PICTURES)):
        files = sorted(path for path in folder.glob("*.safetensors") if re.match(r"[0-9a-f]{24}\.", path.name))
        table = Table(*headings, box=None)
        for path in files:
            table.add_row(*map(escape, facts_of(path)), f"{path.stat().st_size / 1e6:.1f}")
            total += path.stat().st_size
        count += len(files)
        if options.action == "clear":
            for path in [*files, *folder.glob("*.lock")]:
                path.unlink(missing_ok=True)
        elif files:
            console.print(table)
    said = f"{count} files, {total / 1e6:.1f} MB"
    if options.action == "clear":
        console.print(f"removed {said}, from {options.folder}", soft_wrap=True)
    else:
        console.print(f"{said}, in {options.folder}", soft_wrap=True)


if __name__ == "__main__":
    main()

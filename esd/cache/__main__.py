"""python -m esd.cache: the cached walks of the frozen model, shown or removed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open


def main() -> None:
    """python -m esd.cache shows the walks that are kept; python -m esd.cache clear removes them."""
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
    table, total = Table("concept", "erased from", "walks", "time steps", "base", "MB", box=None), 0
    if options.folder.exists() and not options.folder.is_dir():
        fail(f"--folder {options.folder} is a file")
    files = sorted(path for path in options.folder.glob("*.safetensors") if re.match(r"[0-9a-f]{24}\.", path.name))
    for path in files:
        total += path.stat().st_size
        try:
            with safe_open(path, "pt") as file:
                of = json.loads(file.metadata()["of"])
            row = [of["c"], of["f"] or "∅", str(of["walks"]), str(len(of["timesteps"])), of["base"][:12]]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            row = [path.name, "damaged: made again when it is needed", "", "", ""]
        table.add_row(*map(escape, row), f"{path.stat().st_size / 1e6:.1f}")
    console = Console(highlight=False, markup=False)
    if options.action == "clear":
        for path in [*files, *options.folder.glob("*.lock")]:
            path.unlink(missing_ok=True)
        console.print(f"removed {len(files)} files, {total / 1e6:.1f} MB, from {options.folder}", soft_wrap=True)
    else:
        console.print(table)
        console.print(f"{len(files)} files, {total / 1e6:.1f} MB, in {options.folder}", soft_wrap=True)


if __name__ == "__main__":
    main()

"""python -m esd.bench.page: the results page, outputs/gallery/README.md, from the JSON files beside it.

The form of these files is told in esd/report/result.py; commands that measure write them. No figure on the page has another
source. Of every table the page says by which command, where, when and on which weights it was measured, and whether the
weights or the code that makes the table have changed since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from esd import UserError
from esd.files import atomic_write, read_json
from esd.report.result import GALLERY, KEYS, ROOT, file_hash, weights_hash

ORDER = (  # a table that is none of these stands with the longest of them that its name begins with
    "gallery", "model-quality", "twin-quality", "by-eye", "objects", "default", "objects-seed-0-layers-kv-closed_form", "eta",
    "preserve", "many", "given-pictures", "lookalikes", "attack", "frontier", "against", "lora", "memory", "cards", "bench",
    "phases", "solver", "quality", "until-erased", "small-batch", "faults",
)  # fmt: skip
HEAD = """# Results

What was measured with this repository. `python -m esd.bench.page` writes this page from the JSON files beside it, and the \
commands under the tables write those; a table that was transcribed from an older README says so. *Seen* is the share of \
pictures in which the judge sees the concept, of the base model → of the edited one, drawn from the same noise; in brackets \
Wilson's interval, after "of" the number of pictures. *Right* is the share of other prompts whose picture shows what was asked \
for. Where a table's weights, or the files that make it, are not the present ones, it says so; the method that it ran is its \
commit's.
"""


def place(name: str) -> int:
    """Where a table stands on the page."""
    fitting = [number for number, entry in enumerate(ORDER) if f"{name}-".startswith(f"{entry}-")]
    return max(fitting, key=lambda number: len(ORDER[number]), default=len(ORDER))


def read_results(folder: Path) -> dict[str, dict]:
    """The results by their files' names, in the page's order, those it does not know last. Raises UserError for a file of
    another form."""
    found = {file.stem: read_json(file) for file in sorted(folder.glob("*.json")) if file.name != "metrics.json"}
    for name, result in found.items():
        if missing := [key for key in KEYS if key not in result]:
            raise UserError(f"{folder / name}.json has no {missing[0]}: a result holds {', '.join(KEYS)}")
        if not isinstance(result["code"], dict) or {"commit", "files"} - set(result["code"]):
            raise UserError(f"{folder / name}.json: its code is no {{commit, files}}: esd.report.result.write_result notes it")
        if odd := [row for row in result["rows"] if len(row) != len(result["columns"])]:
            raise UserError(f"{folder / name}.json has {len(result['columns'])} columns and a row of {len(odd[0])} cells")
    return {name: found[name] for name in sorted(found, key=lambda name: (place(name), name))}


def changes(result: dict, weights: str) -> Iterator[str]:
    """What is not any more as it was when the table was measured."""
    if re.fullmatch("[0-9a-f]{16}", result["weights"]) and result["weights"] != weights:
        yield f"on other weights than the present ones ({weights})"
    if any(file_hash(ROOT / path) != known for path, known in result["code"]["files"].items()):
        yield f"by other code than the present: what makes the table has changed since commit {result['code']['commit']}"


def section(result: dict, weights: str) -> Iterator[str]:
    yield f"\n## {result['title']}\n\n{result['text']}\n"
    if result["rows"]:
        for cells in (result["columns"], ["---"] * len(result["columns"]), *result["rows"]):
            yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""
    for note in result["notes"]:
        yield f"{note}\n"
    if pictures := result.get("pictures"):
        yield " ".join(f"![{caption}]({file})" for file, caption in pictures) + "\n"
    measured = (
        f"`{result['command']}`, {result['machine']}, {result['date']}, weights {result['weights']}, "
        f"code of commit {result['code']['commit']}"
    )
    yield f"<sub>{measured}.</sub>"
    if changed := list(changes(result, weights)):
        yield f"\n**Measured {', and '.join(changed)}.**"


def page(folder: Path = ROOT / GALLERY) -> str:
    """The whole page, as Markdown."""
    results, weights = read_results(folder), weights_hash()
    anchors = [
        (result["title"], re.sub(r"[^\w\- ]", "", result["title"].lower()).replace(" ", "-")) for result in results.values()
    ]
    contents = "\n".join(f"- [{title}](#{anchor})" for title, anchor in anchors)
    return "\n".join([HEAD, contents, *(line for result in results.values() for line in section(result, weights))]) + "\n"


def main() -> None:
    from esd.command.entry import ArgumentParser, fail

    ArgumentParser(prog="python -m esd.bench.page", description=__doc__).parse_args()
    try:
        text = page()
    except UserError as error:
        fail(str(error))
    with atomic_write(ROOT / GALLERY / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(ROOT / GALLERY / "README.md")


if __name__ == "__main__":
    main()

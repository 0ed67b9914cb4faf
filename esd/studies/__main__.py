"""python -m esd.studies objects: what an erasure does to the concept and to the rest, as a table.

A study is a sweep of the embedded model, conf/experiment/study/NAME.yaml. This trains what outputs/studies/NAME does not
hold yet, a run on each core, draws more pictures where the study needs more than a run's own verdict, prints the table,
leaves it as table.json beside the runs, and for the results page as outputs/gallery/NAME.json. Further arguments go to
python -m esd.train, for example hydra/launcher=basic.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from esd.command.entry import CONF, ArgumentParser
from esd.command.help import choices_of, description
from esd.files import slug, write_json
from esd.report.result import write_result
from esd.studies.study import STUDIES, WORDS, Judge, columns_and_rows, print_table, table_of

MAKERS = ("esd/studies/__main__.py", "esd/studies/study.py")


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.studies", description=__doc__)
    known = choices_of(CONF / "experiment" / "study")
    said = "; ".join(f"{name}: {description(known[name])}" for name in STUDIES)
    parser.add_argument(
        "study", choices=[*STUDIES, "attack"], help=f"{said}; attack: what attacks bring back, beside a control (attack.py)"
    )
    study, further = (options := parser.parse_known_args())[0].study, options[1]
    if study == "attack":
        from esd.studies import attack

        sys.exit(attack.main(further))
    folder = Path("outputs/studies", study + (f"-{slug(' '.join(further))}" if further else ""))

    from esd.models.quiet import silence_libraries

    silence_libraries()
    from esd import models
    from esd.protocols import emoji

    model = models.load(None, "emoji")
    base_hash = model.base_hash
    for file in folder.glob("*/metrics.json"):
        made = json.loads(file.read_text())
        if (made["record"]["base_hash"], made.get("protocol_version")) != (base_hash, emoji.VERSION):
            print(f"{file.parent} was made from other weights than the model has now, or judged otherwise", file=sys.stderr)
            shutil.rmtree(file.parent)
    sweep = [
        "-m",
        f"experiment=study/{study}",
        f"hydra.sweep.dir='{folder}'",
        "hydra/launcher=cores",
        "logger=csv",
        "resume=true",
    ]
    code = subprocess.run([sys.executable, "-m", "esd.train", *sweep, *further]).returncode
    judge, runs = Judge(model), []
    for file in sorted(folder.glob("*/metrics.json")):
        run = json.loads(file.read_text())
        more = judge.look(file.parent, study, run["record"]["concept"])
        figures = {when: run.get(when, {}) | more[when] for when in ("base", "edit")}
        runs.append({"record": run["record"], "training_seconds": run["training_seconds"], **figures})
    if runs:
        lines = table_of(study, runs)
        write_json(folder / "table.json", {"study": study, "base_hash": base_hash, "lines": lines})
        columns, rows = columns_and_rows(study, lines)
        print_table(columns, rows)
        (title, text), typed = WORDS[study], shlex.join(["python", "-m", "esd.studies", study, *further])
        write_result(
            folder.name, title=title + (f": {' '.join(further)}" if further else ""), text=text, command=typed,
            columns=columns, rows=rows, makers=[*MAKERS, f"conf/experiment/study/{study}.yaml"],
        )  # fmt: skip
    sys.exit(code)


if __name__ == "__main__":
    main()

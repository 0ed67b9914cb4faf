"""python -m esd.dashboard ENTITY/PROJECT: a saved Weights & Biases workspace for a project of erasures."""

from __future__ import annotations

import json

from esd import UserError
from esd.command.entry import ArgumentParser, fail
from esd.dashboard.workspace import workspace


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.dashboard", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="where the runs are, for example my-team/esd")
    parser.add_argument("--print", action="store_true", dest="shown", help="show the definition and save nothing: no network")
    options = parser.parse_args()
    try:
        entity, slash, project = options.project.partition("/")
        if not (entity and slash and project) or "/" in project:
            raise UserError(f"'{options.project}' is no ENTITY/PROJECT: for example my-team/esd")
        made = workspace(entity, project)
        if options.shown:
            print(json.dumps(made._to_model().model_dump(by_alias=True, exclude_none=True, mode="json"), indent=2))
            return
        from esd.train.loggers import has_key

        if not has_key():
            raise UserError("Weights & Biases has no key here: wandb login, or set WANDB_API_KEY; --print works without")
        made.save()
    except UserError as mistake:
        fail(str(mistake))
    print(f"Saved: {made.url}")


if __name__ == "__main__":
    main()

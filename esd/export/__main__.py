"""python -m esd.export edit=… to=…: an edit in the form that the place where the model runs takes. See conf/export.yaml."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from esd.command.entry import command
from esd.export.forms import check, export


@command("export")
def main(cfg: DictConfig) -> None:
    check(cfg)
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    export(cfg, Path(HydraConfig.get().runtime.output_dir), Console(highlight=False, markup=False))


if __name__ == "__main__":
    main()

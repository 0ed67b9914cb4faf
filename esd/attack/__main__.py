"""python -m esd.attack edit=…: gone, or only hidden? Attacks beside a control. See conf/attack.yaml for the options."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from esd.attack.options import attacks_of, check_attack_options, group_arguments
from esd.command.entry import command


@command("attack", group_arguments)
def main(cfg: DictConfig) -> None:
    check_attack_options(cfg)
    from esd.models.quiet import silence_libraries

    silence_libraries()
    attacks = attacks_of(cfg)
    from esd.attack.run import attack, console
    from esd.attack.tables import by_edit, headline, terminal
    from esd.command.words import command_line

    typed = [option for option in HydraConfig.get().overrides.task if not option.startswith("attack=")]  # that is attacks=
    lines, folder = attack(cfg, attacks, command_line("esd.attack", *typed))
    for edit, its in by_edit(lines).items():
        console.print(terminal(f"{', '.join(its[0]['concepts'])}: {edit}", its))
        console.print(f"Under attack: {headline(its)}", soft_wrap=True)
    console.print(f"Tries, tables and pictures: {folder}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()

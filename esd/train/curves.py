"""What is erased and kept while a run trains, on a few of the verdict's pictures; and the end once nothing more is seen."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from esd.erasing.erasure import Erasure
from esd.metrics.counts import figure_value
from esd.protocols import Row
from esd.protocols.base_pictures import in_bytes
from esd.train.verdict import KEYS, Verdict

FEW = {"erased": 6, "erased_styled": 6, "erased_scene": 6, "lookalikes": 6, "kept": 12}  # pictures of each group
CLEAN = 2  # looks in a row at which nothing of the concept is seen


def few_of(rows: Sequence[Row]) -> list[Row]:
    """Some of each group, spread over its prompts; of what is erased at least one for each concept."""
    chosen = []
    for group, n in FEW.items():
        its = [row for row in rows if row.group == group]
        few = [its[i * len(its) // n] for i in range(n)] if len(its) >= n else its
        if group.startswith("erased"):
            there = {row.subject for row in few}
            few = [*few, *{row.subject: row for row in its if row.subject not in there}.values()]
        chosen += few
    return chosen


class Curves(Callback):
    """Every so many steps the student draws the same few pictures, and the run's judge looks at them: erased/seen and so on,
    under the keys of the verdict. stop: end the run at the second look in a row that sees nothing of the concept."""

    def __init__(self, verdict: Verdict, every: int, stop: bool):
        self.verdict = copy.copy(verdict)
        self.verdict.rows = few_of(verdict.rows)
        self.verdict.unique = list({row.file: row for row in self.verdict.rows}.values())
        self.every, self.stop = every, stop
        self.clean = 0  # looks in a row that saw nothing

    def state_dict(self) -> dict:
        return {"clean": self.clean}

    def load_state_dict(self, state: dict) -> None:
        self.clean = state["clean"]

    def on_train_start(self, trainer: pl.Trainer, module: Erasure) -> None:
        """A run that was cut between its last look and its end is at its end."""
        self.end_if_clean(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Erasure, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every or step == trainer.max_steps:  # then the verdict says it
            return
        if trainer.is_global_zero:
            with trainer.precision_plugin.forward_context():
                rates = self.look(module)
            for logger in trainer.loggers:
                logger.log_metrics({KEYS.get(group, f"kept/{group}"): rate for group, rate in rates.items()}, step)
            seen = max(rate for group, rate in rates.items() if group.startswith("erased"))
            self.clean = self.clean + 1 if seen == 0 else 0
        self.end_if_clean(trainer)

    def end_if_clean(self, trainer: pl.Trainer) -> None:
        if self.stop and trainer.strategy.reduce_boolean_decision(self.clean >= CLEAN, all=False):
            trainer.should_stop = True

    def look(self, module: Erasure) -> dict[str, float]:
        """group → the rate at which it is seen, or right."""
        verdict, model, device = self.verdict, module.model, module.device
        verdict.protocol.ready(device)

        def quiet(n: float) -> None:
            pass  # the training's bar is there

        teacher = model.denoiser.to(device)
        base = verdict.store.get(verdict.unique, verdict.of, lambda rows: verdict.draw(model, teacher, rows, quiet), quiet)
        figures = verdict.measure(in_bytes(verdict.draw(model, module.student, verdict.unique, quiet)), base, device)
        return {group: figure_value(figures[group]) for group in FEW if group in figures}

"""The algorithm: ESD, erasing a concept from a diffusion model with the model's own knowledge as training data.

Gandikota, Materzyńska, Fiotto-Kaufman, Bau: Erasing Concepts from Diffusion Models, ICCV 2023, arXiv 2303.07345.

    θ*  the frozen model, the teacher        θ   the edited model, the student, which starts as θ*
    c   the concept                          ∅   the null prompt
    x_t a latent partly denoised to t under c with guidance (where from: trajectories.py)

    target  ε̂ = ε_θ*(x_t, ∅, t) − η · [ ε_θ*(x_t, c, t) − ε_θ*(x_t, ∅, t) ]
    loss      = mean ‖ ε_θ(x_t, c, t) − ε̂ ‖²

The student learns to answer c with what the teacher would say when guided away from c. With `erase_from` f the student is
asked for f, and ε_θ*(x_t, f, t) takes the place of the first ε_θ*(x_t, ∅, t): f stays, without c. The combination is linear,
so it is the same for ε, for v, and for a flow's velocity. With `spare` a step moves what reads the text least where other
prompts' texts lie (projection.py); with `closed_form` it starts where that is solved for both (closed_form.py). With `robust`
the loss has a second term, share · mean ‖ ε_θ(x_t, q, t) − ε_θ*(x_t, f, t) ‖², of adversaries q, conditionings that still
bring c back (adversary.py).
"""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.adversary import Adversary
from esd.erasing.concepts import Draw
from esd.erasing.projection import Projection
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Trajectories
from esd.erasing.walks import predict
from esd.models.family import Model
from esd.models.samplers import Sampler

BANDS = 4  # of the loss by time step: t0-250, t250-500, …


def erasure_target(eps_f: Tensor, eps_c: Tensor, eps_null: Tensor, eta: Tensor | float) -> Tensor:
    """ε̂ = ε_f − η·(ε_c − ε_∅) (section 4.1; ε_f = ε_∅ unless erase_from is given). All (B, C, h, w); eta (B,) or a number."""
    eta = eta.view(-1, *[1] * (eps_c.dim() - 1)) if isinstance(eta, Tensor) else eta  # (B, 1, 1, 1)
    return eps_f - eta * (eps_c - eps_null)


def erasure_loss(eps: Tensor, target: Tensor) -> Tensor:
    """‖ε_θ − ε̂‖², averaged over each example: (B, C, h, w) twice → (B,)."""
    return (eps - target).square().flatten(1).mean(1)


class Erasure(pl.LightningModule):
    """Fine-tunes a student until it answers the concept with its absence.

    model:        the family's encode, predict, …; its own denoiser is the teacher
    student:      shares every weight with the teacher but the trained ones (layers.student_of)
    trained:      the names of the trained parameters
    trajectories: where x_t and the teacher's predictions come from
    optimizer, schedule: torch's, given parameters and optimiser
    projection:   what each step's change passes through, or None
    adversary:    what else is erased beside c, or None
    """

    def __init__(
        self, model: Model, student: nn.Module, trained: list[str], prompts: PromptTable, sampler: Sampler,
        trajectories: Trajectories, optimizer: Callable, schedule: Callable, projection: Projection | None = None,
        adversary: Adversary | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model = model  # no nn.Module: the text encoder and the VAE stay where they are
        self.teacher, self.student = trajectories.teacher, student  # no teacher where x_t comes from a cache
        self.prompts, self.sampler, self.trajectories = prompts, sampler, trajectories
        self.trained, self.optimizer, self.schedule = trained, optimizer, schedule
        self.projection, self.adversary = projection, adversary
        self.figures: dict[str, Tensor] = {}  # of the last step, for whoever logs them

    def training_step(self, draw: Draw, _: int) -> Tensor:
        with torch.inference_mode():
            x_t, eps_c, eps_null, eps_f = self.trajectories.examples(draw)
            target = erasure_target(eps_f, eps_c, eps_null, self.prompts.eta[draw.concept])
        x_t, target = x_t.clone(), target.clone()  # ordinary tensors, which autograd may keep
        torch.clear_autocast_cache()  # else the student's weights, cast above without gradients, would be taken again

        condition = self.prompts.condition(self.prompts.rows(self.prompts.student_prompt, draw))
        (eps,) = predict(self.model, self.student, self.sampler, x_t, draw.position, condition)
        error = erasure_loss(eps, target)  # (B,)
        if self.adversary is not None:
            error = error + self.adversary.error(draw, x_t, eps_c, eps_f)
        with torch.inference_mode():
            self.trajectories.answered(draw, eps.detach())
        loss = self.weighted_loss(error, draw)
        if not loss.isfinite():
            raise FloatingPointError(self.not_finite_message(error, draw, x_t, eps))
        self.log_loss(error.detach(), loss.detach(), draw)
        return loss

    def weighted_loss(self, error: Tensor, draw: Draw) -> Tensor:
        """The mean over the examples that erase, plus preserve_weight times the mean over those that preserve."""
        weight, preserves = self.prompts.weight[draw.concept], self.prompts.preserves[draw.concept]
        share = torch.where(preserves, preserves.sum(), (~preserves).sum()).clamp(min=1)
        return (error * weight / share).sum()

    def not_finite_message(self, error: Tensor, draw: Draw, x_t: Tensor, eps: Tensor) -> str:
        worst = int((~error.isfinite()).nonzero().flatten()[0])
        concept = self.prompts.concepts[int(draw.concept[worst])].text
        t = int(self.sampler.timesteps[draw.position[worst]])
        cause = "lower lr or eta"
        if self.global_step == 0 and not (x_t[worst].isfinite().all() and eps[worst].isfinite().all()):  # the student is θ*
            cause = "nothing is trained yet, so the model itself predicts it; model.dtype=fp32, or download it again"
        return f"the loss is not finite at step {self.global_step}, time step {t}, concept '{concept}': {cause}"

    @property
    def measures(self) -> bool:
        """Whether this step's figures are for the loggers: every log_every_n_steps the last one's."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def log_loss(self, error: Tensor, loss: Tensor, draw: Draw) -> None:
        self.log("train/loss", loss, prog_bar=True, logger=False, batch_size=len(error))
        self.figures = {"train/loss": loss} if self.measures else {}
        if self.measures:
            band = (self.sampler.timesteps[draw.position] * BANDS / 1000).long().clamp(max=BANDS - 1)  # (B,)
            for i in band.unique().tolist():
                self.figures[f"train/loss_t{1000 * i // BANDS}-{1000 * (i + 1) // BANDS}"] = error[band == i].mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.measures:
            grads = [p.grad for p in self.student.parameters() if p.grad is not None]
            self.figures["train/gradient_norm"] = nn.utils.get_total_norm(grads)
        if self.projection is not None:
            self.projection.before()

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.projection is not None:
            self.projection.after()  # here, for a checkpoint may be written before the batch's end

    def configure_optimizers(self):
        optimizer = self.optimizer([p for p in self.student.parameters() if p.requires_grad])
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]

    # A checkpoint holds what moves: the trained tensors here, the optimiser's state from Lightning, walks and q below.
    # All randomness is a function of (seed, index), so there is no random state to keep.

    def trained_tensors(self) -> dict[str, Tensor]:
        """The trained tensors, under their names in the denoiser, on the CPU."""
        state = dict(self.student.named_parameters())
        return {name: state[name].detach().cpu().contiguous() for name in self.trained}

    def require_finite(self) -> None:
        """Raises FloatingPointError where a trained weight is not a number any more."""
        if not all(tensor.isfinite().all() for tensor in self.trained_tensors().values()):
            raise FloatingPointError(f"the weights are not finite after step {self.trainer.global_step}: lower lr or eta")

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        return self.trained_tensors()

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        if set(state) != set(self.trained):
            raise UserError(f"the checkpoint holds other weights than layers trains: {len(state)} against {len(self.trained)}")
        parameters = dict(self.student.named_parameters())
        with torch.no_grad():
            for name, tensor in state.items():
                parameters[name].copy_(tensor)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["trajectories"] = self.of_all_ranks(self.trajectories.state())
        if self.adversary is not None:
            checkpoint["adversary"] = self.of_all_ranks(self.adversary.state())

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.trajectories.restore(self.of_this_rank(checkpoint["trajectories"]))
        if self.adversary is not None:
            self.adversary.restore(self.of_this_rank(checkpoint.get("adversary")))

    def of_all_ranks(self, state: Tensor | None) -> Tensor | None:
        """(ranks, B, …) on the CPU."""
        return None if state is None else self.all_gather(state).reshape(-1, *state.shape).cpu()

    def of_this_rank(self, states: Tensor | None) -> Tensor | None:
        if states is not None and len(states) != self.trainer.world_size:
            raise UserError(f"the checkpoint was written on {len(states)} devices, this run has {self.trainer.world_size}")
        return None if states is None else states[self.global_rank]

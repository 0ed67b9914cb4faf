"""python -m esd.bench.memory_table: the bytes that training holds, of the models people have at full size.

Counted, not estimated: each configuration is built on the meta device, which allocates nothing, the student made and its frozen
weights stored as a run does it, and one step of Adam taken; then every storage is counted once. With --measure, Stable
Diffusion 1.4 is allocated and one example goes through it under autocast to bfloat16: what is kept for the backward pass.
With --step, Stable Diffusion XL is allocated and takes real training steps on the processor (full_size.py).
Prints the table beside its bars, leaves it in outputs/gallery/memory.json. int8 needs torchao (extra: int8).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esd.bench import full_size
from esd.bench.memory import Held, held_by
from esd.command.entry import ArgumentParser, fail
from esd.erasing import layers, lora
from esd.models import precision, sizes

RANK = 16
GB = 1e9


class Case(NamedTuple):
    """bar: GB of weights, gradients and optimiser, at most; None where none was set."""

    model: str
    rank: int | None
    quantize: bool = False
    bar: float | None = None

    @property
    def option(self) -> str:
        trained = "esd-x" if self.rank is None else f"esd-x, LoRA {self.rank}"
        return f"{trained}, frozen in {'int8' if self.quantize else 'bf16'}"


DENOISERS: dict[str, Callable[[], nn.Module]] = {
    "SD 1.4": sizes.sd14_unet, "SDXL": sizes.sdxl_unet, "SD 3.5 medium": sizes.sd35_medium_transformer,
    "FLUX.1 dev": sizes.flux_dev_transformer,
}  # fmt: skip
ENCODERS = {  # in memory while the prompts are encoded, and then gone
    "SD 1.4": (sizes.clip_l,), "SDXL": (sizes.clip_l, sizes.clip_g),
    "SD 3.5 medium": (sizes.clip_l, sizes.clip_g, sizes.t5_xxl), "FLUX.1 dev": (sizes.clip_l, sizes.t5_xxl),
}  # fmt: skip
CASES = (
    Case("SD 1.4", None, bar=2.6), Case("SD 1.4", RANK), Case("SDXL", None, bar=14.5), Case("SDXL", RANK, bar=6.0),
    Case("SD 3.5 medium", None), Case("SD 3.5 medium", RANK, bar=6.0), Case("SD 3.5 medium", RANK, True),
    Case("FLUX.1 dev", RANK, bar=26.0), Case("FLUX.1 dev", RANK, True, bar=14.0),
)  # fmt: skip


def stored(denoiser: nn.Module) -> list[Tensor]:
    """The tensors that its weights and buffers are stored in; of torchao's, those inside."""
    inside = ("qdata", "scale", "zero_point")
    return [
        part
        for tensor in (*denoiser.parameters(), *denoiser.buffers())
        for part in ([getattr(tensor, name) for name in inside] if precision.quantized(tensor) else [tensor])
        if part is not None
    ]


def networks(teacher: nn.Module, case: Case) -> nn.Module:
    """The student, made and stored as a run makes it (train/build.py) of a model that is bfloat16 on disk."""
    teacher.bfloat16()
    names = layers.select_parameters(teacher, layers.shipped_rule("esd-x"))
    if case.rank is None:
        student = layers.student_of(teacher, names)
    else:
        student, _ = lora.lora_student_of(teacher, names, case.rank, case.rank, 0, "esd-x")
    precision.store_denoiser(teacher, "bf16")
    if case.quantize:
        precision.quantize(teacher, student)
    return student


def counted(teacher: nn.Module, case: Case) -> dict[str, int]:
    """Bytes after a step of Adam: frozen and trained weights, gradients, the optimiser's state; and their sum."""
    student = networks(teacher, case)
    moving = [p for p in student.parameters() if p.requires_grad]
    own = {id(p) for p in moving}
    optimizer = torch.optim.Adam(moving, 1e-5)
    for parameter in moving:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    found = {
        "frozen": held_by([*stored(teacher), *(tensor for tensor in stored(student) if id(tensor) not in own)]),
        "trained": held_by(moving),
        "gradients": held_by([p.grad for p in moving]),
        "optimiser": held_by([value for state in optimizer.state.values() for value in state.values()]),
    }
    return {**found, "together": sum(found.values())}


def kept_at_batch_1() -> dict[str, int]:
    """Bytes kept for the backward pass of one example of SD 1.4 at 512 pixels, really computed, esd-x and LoRA."""
    found = {}
    for case in CASES[:2]:
        with torch.device("meta"):
            teacher = sizes.sd14_unet()
        teacher = teacher.bfloat16().to_empty(device="cpu")
        for parameter in teacher.parameters():
            nn.init.normal_(parameter, std=0.02)
        student = networks(teacher, case)
        x, words = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768)
        with Held() as held, torch.autocast("cpu", torch.bfloat16):
            loss = student(x, torch.tensor([500]), words, return_dict=False)[0].float().square().mean()
            found[case.option] = held.now
        del loss
    return found


def rows(cases: tuple[Case, ...]) -> list[dict]:
    """One for each case; "holds" is None where there is no bar, and a case that torchao is missing for is left out."""
    found = []
    for case in cases:
        if case.quantize and importlib.util.find_spec("torchao") is None:
            continue
        with torch.device("meta"):
            teacher = DENOISERS[case.model]()
        parameters = sum(p.numel() for p in teacher.parameters())
        bytes_of = counted(teacher, case)
        holds = None if case.bar is None else bytes_of["together"] <= case.bar * GB
        found.append({**case._asdict(), "option": case.option, "parameters": parameters, "bytes": bytes_of, "holds": holds})
    return found


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.memory_table", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="also what Stable Diffusion 1.4 keeps for the backward pass")
    parser.add_argument(
        "--step", action="store_true", help="also a training step of Stable Diffusion XL on the processor: 18 GiB, ten minutes"
    )
    options = parser.parse_args()
    if options.step and 0 < (free := full_size.free_memory()) < full_size.NEEDS:
        fail(f"--step needs {full_size.NEEDS / 2**30:.0f} GiB of memory, and {free / 2**30:.1f} are free")
    from rich.console import Console
    from rich.table import Table

    from esd.report.result import write_result

    taken = full_size.sdxl_step() if options.step else {}
    columns = ["model", "trained, and frozen in", "frozen", "trained", "gradients", "optimiser", "all, GB", "bar", "holds?"]
    lines = [
        [row["model"], row["option"], *(f"{size / GB:.2f}" for size in row["bytes"].values()),
         "" if row["bar"] is None else f"≤ {row['bar']:g}", {True: "yes", False: "NO", None: ""}[row["holds"]]]
        for row in rows(CASES)
    ]  # fmt: skip
    notes = []
    if importlib.util.find_spec("torchao") is None:
        notes.append("The rows of int8 are missing: it needs torchao (extra: int8), which was not installed.")
    if taken:
        notes.append(
            f"SDXL at full size, esd-x, took a first training step on this machine's processor (batch 1, 1024 pixels, random "
            f"weights): the process held {taken['peak'] / GB:.1f} GB at most, activations and torch itself in it, and the step "
            f"took {taken['seconds']:.0f} s of one core (measured)."
        )
    for name, encoders in ENCODERS.items():
        with torch.device("meta"):
            size = 2 * sum(p.numel() for make in encoders for p in make().parameters())
        notes.append(
            f"The text encoders of {name} take {size / GB:.2f} GB in 16 bits while the prompts are encoded, then none."
        )
    for option, size in kept_at_batch_1().items() if options.measure else ():
        notes.append(f"Kept for the backward pass, SD 1.4 at batch 1 and 512 pixels, {option}: {size / GB:.2f} GB (measured).")
    table = Table(*columns, box=None)
    for line in lines:
        table.add_row(*line)
    console = Console(highlight=False, width=140)
    console.print(table)
    console.print("\n".join(notes))
    write_result(
        "memory", title="Memory", text="GB (10⁹ bytes) of weights, gradients and Adam's state after a step, "
        "each storage of the full-size configuration counted once; activations come on top.",
        columns=columns, rows=lines, notes=notes, weights="none: configurations alone",
        command="python -m esd.bench.memory_table" + " --measure" * options.measure + " --step" * options.step,
        makers=[
            "esd/bench/memory_table.py", "esd/bench/full_size.py", "esd/models/precision.py", "esd/erasing/layers.py",
            "esd/erasing/lora.py",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""The bytes that esd.bench reports: of weights and optimiser state beyond one U-Net, and kept for a backward pass."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esd.bench.loop import ESD_X, Loop, mixed
from esd.erasing import layers


def memory() -> dict:
    """ESD-x on Stable Diffusion 1.4's configuration; its weights stay as the memory was found: their number matters."""
    from esd.models.sizes import sd14_unet

    with torch.device("meta"):
        teacher = sd14_unet()
    teacher = teacher.to_empty(device="cpu")
    return beyond(teacher, layers.select_parameters(teacher, layers.LayerRule(**ESD_X)))


def beyond(teacher: nn.Module, trained: list[str]) -> dict:
    """Bytes of weights and optimiser state beyond one U-Net: each storage that teacher, student and Adam hold after a step,
    counted once."""
    one = held_by(teacher.state_dict().values())
    student = layers.student_of(teacher, trained)
    moving = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(moving, 1e-5)
    for parameter in moving:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tensors = [*teacher.state_dict().values(), *student.state_dict().values()]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    more = held_by(tensors) - one
    return {"one U-Net": one, "beyond it": more, "ratio": more / one}


def held_by(tensors) -> int:
    """Bytes of their storages, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())  # on the meta device all lie at 0


class Held(TorchDispatchMode):
    """Bytes of the tensors made while it is on that are still held: `now`, and the `most` at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet = weakref.WeakSet()  # storages

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.known.add(tensor.untyped_storage())  # made before: not counted
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage.nbytes())
        return made

    def freed(self, size: int) -> None:
        self.now -= size


def kept_for_backward(loop: Loop) -> int:
    loop.run(1)  # the warm-up
    with Held() as held:
        with mixed(loop.precision):
            loss = loop.module.training_step(next(loop.draws), 0)
        kept = held.now  # by now autocast has let go of the weights it had cast
    del loss
    return kept

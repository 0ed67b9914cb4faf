"""ESD: erase a concept from a text-to-image diffusion model, in its own weights.

From Python, on a loaded diffusers pipeline:

    from esd import erase, load_edit
    edit = erase(pipe, "Van Gogh", layers="esd-x", steps=1000)
    edit.save("van-gogh.safetensors")
    edit.apply(pipe, strength=1.0)                  # in another process: load_edit(pipe, "van-gogh.safetensors")

The parts serve on their own, too, each with its usage where it stands: erasing.erasure (the target and the loss),
erasing.trajectories (the sources of x_t), erasing.layers (which weights move), models.samplers, metrics.
"""

from __future__ import annotations


class UserError(ValueError):
    """Something the user asked for cannot be had: one line that says what is wrong and what would be right."""


__all__ = ["UserError", "erase", "load_edit"]


def __getattr__(name: str):
    """`from esd import erase` without torch being loaded by every `import esd`."""
    if name == "erase":
        from esd.erasing.erase import erase as found
    elif name == "load_edit":
        from esd.erasing.load import load_edit as found
    else:
        raise AttributeError(f"module 'esd' has no attribute '{name}'")
    return found

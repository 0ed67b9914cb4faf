"""ESD: erase a concept from a text-to-image diffusion model, in its own weights."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user asked for cannot be had: one line that says what is wrong and what would be right."""


__all__ = ["load_edit"]


def __getattr__(name: str):
    """`from esd import load_edit` without torch being loaded by every `import esd`."""
    if name != "load_edit":
        raise AttributeError(f"module 'esd' has no attribute '{name}'")
    from esd.edits.load import load_edit

    return load_edit

"""The prompts of a run, encoded once: which condition each draw walks under, is pushed from, and is trained through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.concepts import Concept, Draw
from esd.erasing.walks import select_rows
from esd.models.family import Condition, Model
from esd.models.lengths import named, unread


def unread_of(model: Model, concepts: list[Concept], templates: list[str], truncate: bool) -> dict[str, str]:
    """Of each prompt to erase that is longer than the text encoders hold the rest that they do not read.

    Raises UserError where there is one, unless truncate says to erase what is read.
    """
    texts = [concept.text for concept in concepts] + [concept.erase_from for concept in concepts if concept.erase_from]
    asked = [template.replace("{}", text) for text in texts for template in templates]
    cut = {prompt: rest for prompt in dict.fromkeys(asked) if (rest := unread(model.base, prompt))}
    if cut and not truncate:
        prompt, rest = next(iter(cut.items()))
        raise UserError(
            f"{named(prompt)} is longer than {model.name}'s text encoder holds, and {named(rest)} would not be read: "
            "shorten the concept, or give truncate=true to erase what is read of it"
        )
    return cut


class PromptTable(nn.Module):
    """Every prompt of a run as one condition table, which moves with the module that holds it.

    Of concept k in phrasing j: `c[k, j]` is the prompt to erase, `f[k, j]` the one it is erased from (∅ is row 0),
    `student_prompt[k, j]` what the student is asked for: f, or c where c is erased from ∅.
    """

    def __init__(
        self, model: Model, concepts: list[Concept], templates: list[str], device: torch.device | str = "cpu"
    ):  # fmt: skip
        """device: what the text encoders compute on."""
        super().__init__()
        prompts: dict[str, int] = {"": 0}
        shape = (len(concepts), len(templates))
        c, f = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        for k, concept in enumerate(concepts):
            for j, template in enumerate(templates):
                c[k, j] = prompts.setdefault(template.replace("{}", concept.text), len(prompts))
                if concept.erase_from:
                    f[k, j] = prompts.setdefault(template.replace("{}", concept.erase_from), len(prompts))
                if concept.preserves:  # it is taken as it stands
                    c[k, j] = f[k, j] = prompts.setdefault(concept.erase_from, len(prompts))
        self.texts = list(prompts)
        self.concepts, self.templates = concepts, templates
        self.names: list[str] = []
        for name, tensor in model.encode(self.texts, device).items():
            self.names.append(name)
            self.register_buffer(f"table_{name}", tensor, persistent=False)  # (P, …)
        self.register_buffer("c", c, persistent=False)
        self.register_buffer("f", f, persistent=False)
        self.register_buffer("student_prompt", torch.where(f == 0, c, f), persistent=False)
        self.asks_for_others = bool((self.student_prompt != self.c).any())  # whether the student is asked for what is not c
        self.register_buffer("eta", torch.tensor([concept.eta for concept in concepts]), persistent=False)
        self.register_buffer("preserves", torch.tensor([concept.preserves for concept in concepts]), persistent=False)
        self.register_buffer("weight", torch.tensor([concept.weight for concept in concepts]), persistent=False)

    def condition(self, rows: Tensor) -> Condition:
        """The prompts in these rows of the table."""
        return select_rows({name: getattr(self, f"table_{name}") for name in self.names}, rows)

    def rows(self, which: Tensor, draw: Draw) -> Tensor:
        """`c`, `f` or `student_prompt` for each example of a draw: (B,) rows of the table."""
        return which[draw.concept, draw.template]

    def null(self, n: int) -> Condition:
        """∅, n times."""
        return self.condition(self.c.new_zeros(n))

"""A text-space method fitted to concepts, with a gate and a strength."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch

from ...concepts import Concept, ConceptSet, concept_set
from ...errors import BadInput
from ...gates import Gate, PromptRow, make_gate, words_of
from ...models import EditableModel, Encoded
from ...options import explain_options, read_options
from . import lancet, projection, safree
from .steered import Steered, settled

METHODS: Mapping[str, ModuleType] = {module.NAME: module for module in (safree, lancet, projection)}


@dataclass(frozen=True)
class TextTerm:
    """``term(encoded)`` gives the texts steered; use the result in place of the encoded texts.

    ``fitted`` is what the method learnt of the concepts. ``strength`` scales the change, 0 is off to the last bit; a
    prompt whose ``gate`` is closed keeps its bits.
    """

    schema: ClassVar[str] = "membrane/1"

    name: str
    fitted: Any
    gate: Gate
    strength: float = 1.0

    def __call__(self, encoded: Encoded) -> Steered:
        """[B, T, d] -> the same for each stretch of the run, with a report for each prompt."""
        ids = words_of(encoded)
        found = [self.gate(PromptRow(encoded.hidden[i], ids[i])).gain for i in range(len(encoded))]
        gains = self.strength * torch.tensor(found, dtype=torch.float64)
        return settled(encoded, self.fitted.propose(encoded), gains)


def text_steering(
    model: EditableModel,
    concepts: str | Concept | ConceptSet | Iterable[str | Concept],
    method: str = "projection",
    strength: float = 1.0,
    gate: str = "auto",
    **options: Any,
) -> TextTerm:
    """Fit a method to ``concepts``.

    ``method``: "safree", "lancet" or "projection"; ``options`` are its settings. ``gate``: one of ``gates.GATES``;
    "auto" is "words" for the projection, which acts on whatever it is shown, and "always" for the others, which look
    for the concept themselves. Raises BadInput for anything that cannot be used.
    """
    settings = settings_of(method, options)
    if not isinstance(strength, int | float) or not math.isfinite(strength):
        raise BadInput(f"The strength of a text method is a number like 1 or 0.5, not {strength!r}.")
    chosen = concept_set(concepts)
    phrases = [phrase for concept in chosen for phrase in concept.phrases]
    kind = METHODS[method].GATE if gate == "auto" else gate
    opener = make_gate(kind, phrases, chosen.all_preserved, model)
    return TextTerm(method, METHODS[method].fit(model, chosen, settings), opener, float(strength))


def settings_of(method: str, options: Mapping[str, Any]) -> Any:
    """Checked settings of a method. Raises BadInput for an unknown method, option or value."""
    if method not in METHODS:
        raise BadInput(f"Unknown text method '{method}'. Known: {', '.join(METHODS)}.")
    return read_options(METHODS[method].Settings, options, method)


def explain(method: str) -> str:
    """A method for people: what it does, and every setting with its range."""
    settings_of(method, {})
    module = METHODS[method]
    return f"{method}: {module.SUMMARY}\n\nSettings:\n{explain_options(module.Settings)}"

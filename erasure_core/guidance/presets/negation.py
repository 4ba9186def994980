"""Null-based negation: u + w (c - u) - w_n (n - u), first half of TraSCE (2412.07658); composable NOT of 2206.01714."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import number
from ..term import Edit, GuidanceTerm
from .common import Windowed, words

NAME = "negation"
SUMMARY = "Subtracts the concept and keeps the empty prompt; holds where the prompt is the concept itself."
WHY = """\
Where a negative prompt fails, a prompt that is the concept, this is left with the empty prompt: nothing of the concept
remains. It costs one evaluation more per concept while it acts: 1.5 times for one, less in a window (mode=robust acts
in the first 30 % only). Strong negation may wash pictures out; limit=1 holds it to the size of the guidance itself.
"""


@dataclass(frozen=True)
class Settings(Windowed):
    """Options of null-based negation."""

    w_n: float | None = number(None, 0.0, 20.0, "scale of the negation; left out: the guidance scale, as published")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term, one edit per concept, all added up."""
    edits = tuple(Edit(words(concept), -concept.weight, window=settings.window) for concept in concepts)
    return GuidanceTerm(NAME, edits, "cfg", settings.w_n, limit=settings.most, strength=settings.strength)

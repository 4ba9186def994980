"""Surgical removal with a chosen alternative, after "All but One" (2312.12807, AAAI 2024).

The paper changes only the guidance part and holds the unconditional fixed, by fine-tuning; this is our form for
sampling: u + w [c - g n + h (a - u)] with n = concept - u and a the anchor's prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import flag, number
from ...prompts import escape
from ..projections import Share, Whole
from ..term import Edit, GuidanceTerm
from .common import Windowed, words

NAME = "all_but_one"
SUMMARY = "Takes the concept out of the prompt and puts its anchor in; a prompt that is the concept draws the anchor."
WHY = """\
Write the alternative behind an arrow, 'circle -> square'; without one nothing is put in. ratio=yes replaces only as
much of a prompt as is the concept, which leaves unrelated prompts alone. Costs 2 times with an anchor while it acts,
1.5 times without.
"""


@dataclass(frozen=True)
class Settings(Windowed):
    """Options of the surgical form."""

    g: float = number(1.0, 0.0, 4.0, "how much of the concept is taken out")
    h: float = number(1.0, 0.0, 1.5, "how much of the anchor is put in")
    ratio: bool = flag(True, "times the part of the prompt that is the concept, for each picture")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term: for each concept an edit away from it and one towards its anchor."""
    edits: list[Edit] = []
    for concept in concepts:
        text = words(concept)
        part = Share(text) if settings.ratio else Whole()
        edits.append(Edit(text, -settings.g * concept.weight, projection=part, window=settings.window))
        if concept.anchor:
            towards = settings.h * concept.weight
            edits.append(Edit(escape(concept.anchor), towards, projection=part, window=settings.window))
    return GuidanceTerm(NAME, tuple(edits), "cfg", limit=settings.most, strength=settings.strength)

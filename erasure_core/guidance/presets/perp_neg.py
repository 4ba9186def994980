"""Perp-Neg (2304.04968): u + w (c - sum beta_i perp_i), perp_i the part of n_i - u across c - u, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import number
from ..projections import Orthogonal
from ..term import Edit, GuidanceTerm
from .common import Windowed, words

NAME = "perp_neg"
SUMMARY = "Subtracts only what does not contradict the prompt; for 'no text, no watermark'."
WHY = """\
It never fights the prompt, so where the prompt is the concept it does nothing: right for things that creep in, wrong
for robust erasure. blend=0 is 'negation', numbers between are a mixture. Both published codes take the inner products
over the whole batch, so that a picture depends on its neighbours; here every picture is by itself.
"""


@dataclass(frozen=True)
class Settings(Windowed):
    """Options of Perp-Neg."""

    beta: float = number(1.0, 0.0, 4.0, "scale of the negative part, times each concept's weight")
    blend: float = number(1.0, 0.0, 1.0, "1: only what is across the prompt's direction; 0: the whole direction")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term, one edit per concept."""
    part = Orthogonal(settings.blend)
    edits = tuple(Edit(words(c), -settings.beta * c.weight, projection=part, window=settings.window) for c in concepts)
    return GuidanceTerm(NAME, edits, "cfg", limit=settings.most, strength=settings.strength)

"""What the settings of several presets share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...errors import BadInput
from ...options import choice, number
from ...prompts import escape
from ..progress import MODES, RAMP, Window


@dataclass(frozen=True)
class Shared:
    """Settings that every preset has."""

    strength: float = number(1.0, 0.0, 10.0, "multiplies the whole term; 0 is off to the last bit, 1 is as published")
    limit: float | None = number(
        None, 0.2, 4.0, "no sample is pushed further than this multiple of what guidance does; left out: no limit"
    )

    @property
    def most(self) -> float:
        """The limit, infinite if there is none."""
        return math.inf if self.limit is None else self.limit


@dataclass(frozen=True)
class Windowed(Shared):
    """Settings of presets that act in one window."""

    mode: str = choice(
        "whole",
        tuple(MODES),
        "when: whole run; surgical 0.17 to 0.5 (keeps the layout); balanced 0 to 0.5; robust 0 to 0.3 (removes surest)",
    )
    start: float | None = number(None, 0.0, 1.0, "progress of the run at which it begins, instead of the mode's")
    end: float | None = number(None, 0.0, 1.0, "progress of the run at which it ends, instead of the mode's")
    ramp: float = number(RAMP, 0.0, 0.5, "width of the rise before the start and of the fall after the end")

    @property
    def window(self) -> Window:
        """The window."""
        start, end = MODES[self.mode]
        return Window(start if self.start is None else self.start, end if self.end is None else self.end, self.ramp)


def words(concept: Concept) -> str:
    """The prompt that stands for a concept: its phrases, taken literally, with commas between them."""
    return escape(", ".join(concept.phrases))


def each(text: str, count: int, name: str) -> list[float]:
    """Numbers written with slashes between them: one for all concepts, or one for each."""
    found = [float(part) for part in text.split("/")]
    if len(found) == 1:
        return found * count
    if len(found) != count:
        raise BadInput(f"'{name}' holds {len(found)} numbers for {count} concepts. Give one number, or one for each.")
    return found


def one_text(concepts: Sequence[Concept], method: str) -> tuple[str, float]:
    """All concepts in one text and their weight, which has to be the same."""
    weights = {concept.weight for concept in concepts}
    if len(weights) > 1:
        raise BadInput(
            f"'{method}' evaluates all concepts as one text, so they cannot have different weights. "
            "Leave the weights out, or use 'negation'."
        )
    return ", ".join(map(words, concepts)), weights.pop()

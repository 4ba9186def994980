"""Plain negative prompt, whole or in a window, with our adaptive rule.

u is replaced by the prediction n of the negative text: n + w (c - n), which is u + w (c - u) - (w - 1) (n - u).
Windows: Ban et al., "Understanding the Impact of Negative Prompts", ECCV 2024 (2406.02965).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import choice, flag
from ..gates import Aligned, Open
from ..progress import Window
from ..term import Edit, GuidanceTerm
from .common import Windowed, one_text

NAME = "negative"
SUMMARY = "A negative prompt, for all of the run or a part of it. Costs nothing where it acts fully."
WHY = """\
A negative prompt is only as strong as the guidance scale minus 1, and where the prompt is the negative itself, what is
left is plain sampling of the concept: use 'negation' there. Given too early it may draw the very thing it names, which
is why a window helps (mode=surgical); a ramp, and adaptive=yes, evaluate the empty prompt as well while they last.
mode=robust acts early, where that reversal would happen, so it keeps the empty prompt (form=negate) unless told else.
"""
HARD = Window(0.10, 0.60)
"""The adaptive rule's own window."""


@dataclass(frozen=True)
class Settings(Windowed):
    """Options of the plain negative prompt."""

    form: str = choice(
        "auto",
        ("auto", "replace", "negate"),
        "replace: the empty prompt by the negative; negate: keep it and subtract; auto: replace unless mode is robust",
    )
    adaptive: bool = flag(
        False, "each picture by itself begins when the concept shows and ends when it is gone, between 0.1 and 0.6"
    )


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term; all concepts are one text."""
    negate = settings.form == "negate" or (settings.form == "auto" and settings.mode == "robust")
    edits: tuple[Edit, ...] = ()
    if concepts:
        text, weight = one_text(concepts, NAME)
        window = settings.window
        if settings.adaptive:
            start, end = max(window.start, HARD.start), min(window.end, HARD.end)
            window = Window(start, end) if start < end else Window(0, 0)
        edits = (Edit(text, -weight, gate=Aligned() if settings.adaptive else Open(), window=window),)
    injection = "cfg" if negate else "replace"
    return GuidanceTerm(NAME, edits, injection, limit=settings.most, strength=settings.strength)

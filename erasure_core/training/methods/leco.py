"""LECO, which SPM and Concept Sliders grew from: a slider's objective on both attentions, by default to erase.

It has no paper; with one text for positive and target, and one for unconditional and neutral, its target is ESD's
(arXiv 2303.07345).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...options import choice, number
from ..scopes import SCOPES, explain_scopes
from . import slider

NAME = "leco"
GUIDES = slider.GUIDES
SUMMARY = "LECO: a slider on both attentions. For what is named, and for files of settings that were made for it."
WHY = (
    "The same objective as a slider's with all roles to choose, on layers that read the text, too. Texts of the bank "
    "hold the rest in place, which LECO itself does not do: it trains 500 steps at 1e-4 with eta=1, draws=2 and "
    "word_anchors=0."
)
terms, examples = slider.terms, slider.examples


@dataclass(frozen=True)
class Settings(slider.Settings):
    """LECO's numbers."""

    eta: float | None = number(
        None,
        -50.0,
        50.0,
        "how far along the direction; 1, or where concept and anchor are its ends 0.2 beyond the anchor, for styles "
        "0.5",
    )
    anchor_weight: float = number(6.0, 0.0, 1e6, "how much the anchors count")
    scope: str = choice("attention", SCOPES, explain_scopes())

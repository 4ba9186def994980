"""Ablating Concepts (arXiv 2303.13516): on pictures of the anchor, the concept's text predicts what the anchor's does.

Model-based ``|eps(x_a, c) - sg eps(x_a, a)|^2`` with the current weights, or noise-based ``|eps(x_a, c) - noise|^2``,
where x_a is a noised picture that the frozen model draws of the anchor. Our pictures are not cropped or enlarged, so
that no pixels are masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...options import choice, number
from ..draw import Draw
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import NOISE, Term, keep

NAME = "ablating"
GUIDES = ("anchor", "empty")
SUMMARY = "Ablating Concepts: becomes the anchor, learned on pictures of the anchor alone. Gentle."
WHY = (
    "For turning one thing into another: only keys and values of cross-attention learn, and the concept's own pictures "
    "are never looked at. Name an anchor; without one the pictures are of nothing in particular. The paper trains "
    "whole weights (form=weights) on 1000 pictures (pool=1000) for 100 steps at 8e-6 and holds the anchor by its true "
    "noise (prior=1); that noise drowns the rest in so few steps, so here texts of the bank hold what must stay."
)


@dataclass(frozen=True)
class Settings(Training):
    """Numbers of Ablating Concepts."""

    steps: int = number(150, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(4e-3, 1e-8, 1.0, "learning rate of Adam")
    target: str = choice(
        "model", ("model", "noise"), "what the anchor's text predicts now, or the picture's true noise"
    )
    prior: float = number(0.0, 0.0, 1e6, "how much it counts that the anchor's text still predicts the true noise")
    scope: str = choice("xattn-kv", SCOPES, explain_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(3.0, 0.0, 1e6, "how much the anchors count")
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    guidance: float = number(6.0, 0.0, 50.0, "guidance scale that makes the pictures")
    latents: str = choice(
        "noised", ("noised", "teacher", "student", "final"), "pictures of the anchor with new noise, or trajectories"
    )


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """One term that erases, and one for the anchor; others only where the settings ask for some."""
    model_based = settings.target == "model"
    found = [Term("concept", {"anchor" if model_based else NOISE: 1.0}, current=model_based)]
    if settings.prior:
        found.append(Term("anchor", {NOISE: 1.0}, settings.prior, keeps=True))
    kept = draw.anchors[latent]
    return [*found, *(keep(kept, settings.anchor_weight) if kept else ())]

"""SPM, the concept semi-permeable membrane (arXiv 2312.16145): a rank-one adapter with latent anchoring.

``|eps(x, c) - (e_s - eta (e_c - e_s))|^2 + lambda mean_a |eps(x, a) - e_a|^2`` with the surrogate s, the empty prompt
where no anchor is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...options import number
from ..draw import Draw
from ..settings import Training
from ..terms import Term, beyond, guided_away, keep

NAME = "spm"
ROWS = "positive"
SUMMARY = "SPM: rank-one pairs in all transformers, held in place by random and real texts. The default."
WHY = (
    "The paper trains 3000 steps at batch 1 with random anchors alone; here every update has several latents of one "
    "trajectory, and half of the anchors are real texts: random ones are like nothing anybody writes."
)


@dataclass(frozen=True)
class Settings(Training):
    """SPM's numbers."""

    eta: float | None = number(
        None, 0.0, 50.0, "how far beyond the anchor; 1, or where one is named 0.2, for styles 0.5"
    )
    random_anchors: int = number(2, 0, 64, "texts of random directions per latent that must stay", whole=True)
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(20.0, 0.0, 1e6, "how much the anchors count")
    lr: float = number(1e-2, 1e-8, 1.0, "learning rate of Adam")
    steps: int = number(100, 1, 200_000, "updates of the adapter", whole=True)
    draws: int = number(8, 1, 64, "latents of one trajectory in each update, one from each part of it", whole=True)


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """One term that erases, and one for each anchor."""
    erase = Term("concept", guided_away("concept", "anchor", beyond(settings.eta, draw)))
    return [erase, *keep(draw.anchors[latent], settings.anchor_weight)]

"""ANT (arXiv 2504.12782): guidance is reversed late in a trajectory only, after its first steps have fixed the layout.

Early the concept's text keeps its prediction, late it gets ``e_0 - eta (e_c - e_0)``; the empty text keeps its own
throughout: ``L_reverse + alpha1 L_uncond`` late, ``beta (L_keep + alpha2 L_uncond)`` early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import BadInput
from ...options import choice, number
from ..draw import Draw
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import Term, beyond, guided_away, keep

if TYPE_CHECKING:
    from ..loop import Trainer

NAME = "ant"
SUMMARY = "ANT: other content in the same layout; the first steps of a picture stay as they are."
WHY = (
    "For when pictures should keep their composition and stay natural. What a picture's first steps already fix, as a "
    "large shape, is not erased if split comes after them. The paper's code reverses the noisy end instead of the late "
    "one, and one of its terms has no gradient; this is what the paper says. Its numbers for one concept: split=0.14, "
    "whole weights (form=weights, scope=full) with the share mask=0.5 of most salient ones, 250 steps at 5e-4; for "
    "many: rank=64, alpha=1, scope=c3lier, split=0.08, alpha1=2.5, alpha2=0.5, ten steps each."
)


@dataclass(frozen=True)
class Settings(Training):
    """ANT's numbers."""

    steps: int = number(150, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(3e-3, 1e-8, 1.0, "learning rate of Adam")
    eta: float | None = number(
        None, 0.0, 50.0, "how far beyond the empty prompt, 1, or beyond the anchor, 0.2, for styles 0.5"
    )
    split: float = number(0.14, 0.0, 1.0, "share of the trajectory, from pure noise on, that stays as it is")
    alpha1: float = number(2.5, 0.0, 1e6, "how much the empty text counts late")
    alpha2: float = number(0.5, 0.0, 1e6, "how much the empty text counts early")
    beta: float = number(1.0, 0.0, 1e6, "how much the early part counts")
    scope: str = choice("xformer", SCOPES, explain_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(12.0, 0.0, 1e6, "how much the anchors count")
    mask: float = number(1.0, 0.0, 1.0, "share of every weight that learns, the most salient; needs form=weights")
    maps: int = number(20, 1, 1000, "updates that have to agree on what is salient", whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask < 1 and self.form != "weights":
            raise BadInput("mask chooses among whole weights: set form=weights, too, or leave mask out.")


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """Two terms, by the time the latent is at; anchors only where the settings ask for some."""
    if progress < settings.split:
        found = [
            Term("concept", {"concept": 1.0}, settings.beta, keeps=True),
            Term("empty", {"empty": 1.0}, settings.beta * settings.alpha2, keeps=True),
        ]
    else:
        found = [
            Term("concept", guided_away("concept", "anchor", beyond(settings.eta, draw))),
            Term("empty", {"empty": 1.0}, settings.alpha1, keeps=True),
        ]
    kept = draw.anchors[latent]
    return [*found, *(keep(kept, settings.anchor_weight) if kept else ())]


def masks(settings: Settings, trainer: Trainer) -> dict[str, Tensor]:
    """Where each parameter is among the share with the largest gradients in all of ``maps`` updates from the start.

    The draws are those after the last update's, so that no update repeats one.
    """
    found: dict[str, Tensor] = {}
    for i in range(settings.maps if settings.mask < 1 else 0):
        for name, slope in trainer.slopes(settings.steps + i).items():
            own = most(slope.abs(), settings.mask)
            found[name] = found[name] & own if name in found else own
    return found


def most(values: Tensor, share: float) -> Tensor:
    """Where ``values`` are among the largest ``share`` of them."""
    count = math.ceil(share * values.numel())
    if not count:
        return values > math.inf
    return values >= values.flatten().kthvalue(values.numel() - count + 1).values

"""SDD, safe self-distillation (arXiv 2307.05977): ``|eps(x, c) - sg eps(x, 0)|^2`` with the current weights.

The concept's prediction becomes that of the empty prompt and no more: there is no guidance that could overshoot. A
moving average of the weights makes the latents and is the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...options import choice, number
from ..draw import Draw
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import Term, keep

NAME = "sdd"
SUMMARY = "SDD: the concept becomes what the empty prompt or the anchor gives; steady at any learning rate."
WHY = (
    "For when other methods overshoot into noise, or nothing is known about how strong to erase. The paper averages "
    "with 0.999 over 1500 steps of the whole cross-attention at 1e-5; here pairs of rank 4 learn faster, and the "
    "average is shorter to match."
)


@dataclass(frozen=True)
class Settings(Training):
    """SDD's numbers."""

    steps: int = number(200, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(4e-3, 1e-8, 1.0, "learning rate of Adam")
    scope: str = choice("xattn", SCOPES, explain_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(3.0, 0.0, 1e6, "how much the anchors count")
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    average: float = number(0.98, 0.0, 0.99999, "decay of the moving average that becomes the result, 0 for none")
    latents: str = choice(
        "average", ("average", "student", "teacher", "noised", "final"), "whose trajectories: the moving average's"
    )


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """One term toward the model's own prediction as it is now; anchors only where the settings ask for some."""
    kept = draw.anchors[latent]
    erase = Term("concept", {"anchor": 1.0}, current=True)
    return [erase, *(keep(kept, settings.anchor_weight) if kept else ())]

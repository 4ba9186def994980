"""ACE, anti-editing concept erasure (arXiv 2501.01633): both branches of guidance change, so that edits fail, too.

At the concept's text ``e_0 - eta_c (e_c - e_0)``; at the empty one
``e_0 + eta_u (e_c - e_0) - eta_p sum_p gamma_p (e_p - e_0)``: guidance then takes the concept out of every picture, and
words p that must stay are put back (stochastic correction guidance).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...options import choice, number
from ..draw import Draw
from ..settings import Training
from ..terms import Term, guided_away, keep, merged
from ..texts import Texts

NAME = "ace"
ROWS = "full"
SUMMARY = "ACE: both branches of guidance change, made so that editing a picture does not bring the concept back."
WHY = (
    "For img2img, inpainting and inversion, where other methods let the concept through. Because the empty prompt "
    "changes, all pictures do: every prompt gets it at full strength, and what must stay is held by the words of the "
    "bank (word_anchors), so name neighbours to preserve. The paper's numbers are eta_c=3, eta_u=3, eta_p=3, pl=0.8, "
    "nw=0.99, word_anchors=2 and 1500 steps: fifteen times as far at the empty text. Its code trains on finished "
    "pictures by mistake (latents=final). gamma is measured by the likeness of texts here, by CLIP in the paper."
)


@dataclass(frozen=True)
class Settings(Training):
    """ACE's numbers."""

    steps: int = number(120, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(3e-3, 1e-8, 1.0, "learning rate of Adam")
    eta_c: float = number(0.3, 0.0, 50.0, "how far away from the concept at its own text")
    eta_u: float = number(0.2, 0.0, 50.0, "how far toward the concept at the empty text")
    eta_p: float = number(0.1, 0.0, 50.0, "how far the empty text is put back toward each word that must stay")
    pl: float = number(0.95, 0.0, 1.0, "share of the loss that preserves")
    nw: float = number(0.5, 0.0, 1.0, "share of the empty text in the rest")
    gamma: str = choice(
        "text", ("text", "one"), "words like the concept are put back more (by encoded texts), or alike"
    )
    ramp: int = number(0, 0, 100_000, "updates over which eta_u and eta_p rise from 0", whole=True)
    word_anchors: int = number(4, 0, 64, "texts of the bank per latent that must stay", whole=True)
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """A term for each branch, and one for each word that must stay."""
    risen = min(1.0, (draw.step + 1) / settings.ramp) if settings.ramp else 1.0
    kept = draw.anchors[latent]
    put_back = {role: settings.eta_p * ratio(settings, draw.rows, role) for role in kept}
    branch = merged(
        {"empty": 1.0 - risen * (settings.eta_u - sum(put_back.values())), "concept": risen * settings.eta_u},
        {role: -risen * factor for role, factor in put_back.items()},
    )
    erasing = 1.0 - settings.pl
    return [
        Term("empty", branch, erasing * settings.nw),
        Term("concept", guided_away("concept", "anchor", settings.eta_c), erasing * (1.0 - settings.nw)),
        *(keep(kept, settings.pl) if kept else ()),
    ]


def ratio(settings: Settings, rows: Mapping[str, Texts], role: str) -> float:
    """gamma of a word that must stay: the cosine of its encoded text, all rows as one vector, with the concept's."""
    if settings.gamma == "one":
        return 1.0
    own, concept = rows[role].hidden.flatten(), rows["concept"].hidden.flatten()
    return float(torch.cosine_similarity(own, concept, dim=0).clamp_min(0))

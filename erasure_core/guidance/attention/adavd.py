"""AdaVD, adaptive value decomposer (arXiv 2412.06143): take the concept's direction out of the text's values.

In every cross-attention layer, for the value ``v`` of each token but the start: ``v - sum_j d(cos(v, v*_j)) c_j v*_j``
with ``v*_j = to_v`` of the concept's last token, across all heads, and ``c`` the coefficients of the projection of v on
the span of all v*. The paper orthogonalises by Gram-Schmidt; its result, gate included, is this sum, which does not
depend on the order of the concepts. The gate ``d(z) = c / (1 + exp(-a (z - b)))`` is nearly a step: with the paper's
a = 100, b = 0.93, c = 2 a value is left alone below a cosine of 0.88, projected at 0.93 and mirrored when it is the
concept's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...options import choice, number

NAME = "adavd"
SUMMARY = "Takes the concept's direction out of the values of every word that is like it; needs only a phrase."
TEXT = "last"
ROWS = "all"
GATE, OTHERS = "always", 1.0
CHUNK = 77


@dataclass(frozen=True)
class Settings:
    """Options of AdaVD; the constants of the gate under the names of the authors' code."""

    curve: str = choice(
        "sigmoid", ("sigmoid", "cosine", "none"), "which share is taken: the gate, the cosine itself, or all of it"
    )
    sigmoid_a: float = number(100.0, 0.0, 1e4, "steepness of the gate")
    sigmoid_b: float = number(0.93, -1.0, 1.0, "cosine in the middle of the gate; 0.85 also catches paraphrases")
    sigmoid_c: float = number(2.0, 0.0, 10.0, "what the gate opens to: 1 projects, 2 mirrors")


def check(settings: Settings) -> None:
    """Every combination makes sense."""


def values(v: Tensor, concepts: Tensor, settings: Settings) -> Tensor:
    """Values ``v`` [B, L, heads d] of a text without the ``concepts`` [n, heads d]; start tokens stay as they are.

    A text longer than one chunk has a start token every 77 positions.
    """
    if len(concepts) == 0:
        return v
    shares = openness(v, concepts, settings)
    change = (shares * (v @ torch.linalg.pinv(concepts.double()).to(v))) @ concepts
    change[:, ::CHUNK] = 0
    return v - change


def openness(v: Tensor, concepts: Tensor, settings: Settings) -> Tensor:
    """The gate [B, L, n] for values [B, L, D] and concepts [n, D]."""
    if settings.curve == "none":
        return v.new_ones(*v.shape[:2], len(concepts))
    cosines = cosine_similarity(v.unsqueeze(2), concepts, dim=-1)
    if settings.curve == "cosine":
        return cosines
    return settings.sigmoid_c * torch.sigmoid(settings.sigmoid_a * (cosines - settings.sigmoid_b))

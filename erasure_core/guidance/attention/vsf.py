"""VSF, value sign flip (arXiv 2508.10931): the negative's words join the attention with their values turned round.

``Z = softmax([Q K+^T, Q K-^T - beta sqrt(d)] / sqrt(d)) [V+; -alpha V-]``. Per head and query this is exactly
``W Z+ - alpha (1 - W) Z-`` with ``W = sigmoid(l+ - l- + beta)``, l the log-sum-exp of the logits: the share of
attention that the prompt gets. So Z+ can be whatever the host's own attention gave. Padding of the negative takes no
part: there is much of it, and it would take attention from the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...options import choice, number
from .heads import KeyValue, attend, mass

NAME = "vsf"
SUMMARY = "Attends to the negative's words along with the prompt's and subtracts what they bring, where they matter."
TEXT = "words+end"
ROWS = "cond"
GATE, OTHERS = "words", 0.4  # in full on every prompt, as published, what is like it suffers, too


@dataclass(frozen=True)
class Settings:
    """Options of VSF; alpha and beta as in the paper."""

    alpha: float = number(2.0, -1.0, 50.0, "how strongly the negative's values are subtracted (paper: 3.5 for SD 3.5)")
    beta: float = number(0.1, -10.0, 100.0, "offset: above 0 the negative's words get less attention, below 0 more")
    negative: str = choice(
        "auto", ("auto", "words", "words+end", "all"), "rows of the negative: auto is words+end, never padding"
    )


def check(settings: Settings) -> None:
    """Every combination makes sense."""


def guided(
    z: Tensor, q: Tensor, k: Tensor, negatives: Sequence[KeyValue], settings: Settings, repeats: Tensor | None = None
) -> Tensor:
    """``Z`` from ``z`` Z+ [B, heads, T, d]; q the same shape, k [B, heads, L, d]; all negatives' words are one text.

    ``repeats`` [B]: how often the prompt stands in ``k``, because a host repeats the shorter text of a batch to the
    common length; that must not count as more attention.
    """
    if not negatives:
        return z
    keys, values = (torch.cat(parts, dim=2) for parts in zip(*negatives, strict=True))
    own = mass(q, k)
    if repeats is not None:
        own = own - repeats.to(own).log().view(-1, 1, 1, 1)
    share = torch.sigmoid(own - mass(q, keys) + settings.beta)
    return share * z - settings.alpha * (1 - share) * attend(q, keys, values)


def attention(q: Tensor, k: Tensor, v: Tensor, negatives: Sequence[KeyValue], settings: Settings) -> Tensor:
    """Attention with VSF [B, heads, T, d]: q [B, heads, T, d], k and v [B, heads, L, d], negatives the same."""
    return guided(attend(q, k, v), q, k, negatives, settings)

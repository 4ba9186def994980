"""NAG, normalized attention guidance (arXiv 2505.21179): extrapolate away from the negative, keep the length in check.

Per token of the picture, over all heads: ``Z~ = Z+ + s (Z+ - Z-)``, ``r = |Z~| / |Z+|``,
``Z^ = Z~ min(r, tau) / r``, ``Z = alpha Z^ + (1 - alpha) Z+``. The paper and the published nodes take the L1 norm, the
authors' code for Flux the L2 norm. Some write the scale as ``phi = s + 1``: off at 1 instead of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import BadInput
from ...options import choice, number
from .heads import KeyValue, attend

NAME = "nag"
SUMMARY = "Pushes what attention brings away from what the negative would have brought; its length is limited."
TEXT = "all"  # Z- is what attention brings for the whole negative prompt, as the model reads it
ROWS = "cond"
GATE, OTHERS = "always", 1.0
_SCALE = 2.0


@dataclass(frozen=True)
class Settings:
    """Options of NAG; s, tau and alpha as in the paper."""

    scale: float | None = number(
        None, 0.0, 50.0, "s, how far away; 2 by itself (paper: 1 for SD 1.5, 2 for SDXL, 4 for Flux and SD 3.5)"
    )
    convention: str = choice("s", ("s", "phi"), "whether scale is s, off at 0, or phi = s + 1, off at 1")
    tau: float = number(2.5, 0.0, 100.0, "longest the result may be, in lengths of Z+")
    alpha: float = number(0.5, 0.0, 1.0, "share of the guided result, the rest is Z+; 0 is off")
    norm: str = choice("l1", ("l1", "l2"), "how length is measured; l2 as in the authors' Flux code")
    negative: str = choice("auto", ("auto", "words", "words+end", "all"), "rows of the negative: auto is all")

    @property
    def s(self) -> float:
        """The scale as the paper writes it."""
        if self.scale is None:
            return _SCALE
        return self.scale if self.convention == "s" else self.scale - 1


def check(settings: Settings) -> None:
    """Raise BadInput for a scale below the point where the convention is off."""
    if settings.s < 0:
        raise BadInput(f"With convention=phi the scale starts at 1, which is off; {settings.scale:g} would attract.")


def guided(
    z: Tensor, q: Tensor, k: Tensor, negatives: Sequence[KeyValue], settings: Settings, repeats: Tensor | None = None
) -> Tensor:
    """``Z`` from ``z`` Z+ [B, heads, T, d], ``q`` the same shape; of several negatives Z- is the mean.

    ``k`` and ``repeats`` are not needed: Z+ does not depend on how often a text is repeated.
    """
    if settings.s == 0 or settings.alpha == 0 or not negatives:
        return z
    other = torch.stack([attend(q, *pair) for pair in negatives]).mean(0)
    return combined(z, other, settings)


def combined(z: Tensor, other: Tensor, settings: Settings) -> Tensor:
    """The paper's update of Z+ ``z`` and Z- ``other`` [B, heads, T, d]; equal ones, s = 0 or alpha = 0 give ``z``."""
    pushed = z + settings.s * (z - other)
    order = 1 if settings.norm == "l1" else 2
    old, new = (torch.linalg.vector_norm(part, order, dim=(1, 3), keepdim=True) for part in (z, pushed))
    # min(r, tau) / r, written so that a token of length 0 stays 0 and never divides by it
    share = torch.where(new > settings.tau * old, settings.tau * old / new.clamp_min(torch.finfo(z.dtype).tiny), 1.0)
    return z + settings.alpha * (share * pushed - z)


def attention(q: Tensor, k: Tensor, v: Tensor, negatives: Sequence[KeyValue], settings: Settings) -> Tensor:
    """Attention with NAG [B, heads, T, d]: q [B, heads, T, d], k and v [B, heads, L, d], negatives the same."""
    return guided(attend(q, k, v), q, k, negatives, settings)

"""Semantic guidance (SEGA, 2301.12247, NeurIPS 2023): several edits, each by its strongest elements only.

psi = r s_e (e - u) where |psi| is among the largest 1 - lambda of its channel, gamma = sum g_e psi + s_m nu,
nu = beta nu + (1 - beta) gamma, and u + w (c - u) + gamma: not multiplied by w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...errors import BadInput
from ...options import flag, number, numbers
from ..masks import Quantile
from ..momentum import Momentum
from ..progress import Window
from ..term import Edit, GuidanceTerm
from .common import Shared, each, words

NAME = "sega"
SUMMARY = "Removes or adds several concepts at once, each only in the strongest elements of its direction."
WHY = """\
The mask is a quantile, so it needs no tuning for other models; but it always acts on some elements, also where the
concept is not in the picture. Each setting with slashes may be one number, or one for each concept, in order. An edit
is evaluated from its warm-up to its cool-down only; gather=yes lets momentum grow from the first step on, as the
published pipeline does, which costs evaluations before.
"""


@dataclass(frozen=True)
class Settings(Shared):
    """Options of SEGA."""

    direction: str = numbers("-1", -1, 1, "-1 removes the concept, 1 adds it")
    scale: str = numbers("5", 0, 30, "s_e, edit scale")
    threshold: str = numbers("0.9", 0, 1, "lambda, share of each channel's elements that is left alone")
    warmup: str = numbers("0.2", 0, 1, "progress at which the edit begins")
    cooldown: str = numbers("1", 0, 1, "progress at which it ends")
    momentum_scale: float = number(0.1, 0.0, 1.0, "s_m, how much gathered momentum is added")
    mom_beta: float = number(0.4, 0.0, 1.0, "beta_m, how much of the old momentum is kept")
    gather: bool = flag(False, "gather momentum during the warm-up, too")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term: one edit per concept, its weight being the concept's; one momentum for all."""
    names = ("direction", "scale", "threshold", "warmup", "cooldown")
    columns = [each(getattr(settings, name), max(len(concepts), 1), name) for name in names]
    if any(sign not in (-1.0, 1.0) for sign in columns[0]):
        raise BadInput("The option 'direction' of 'sega' is -1 (remove) or 1 (add) for each concept.")
    edits = tuple(
        Edit(words(c), sign * scale * c.weight, mask=Quantile(level), window=Window(begin, end))
        for c, sign, scale, level, begin, end in zip(concepts, *columns, strict=False)
    )
    return GuidanceTerm(
        NAME,
        edits,
        "absolute",
        momentum=Momentum(settings.momentum_scale, settings.mom_beta),
        gather=settings.gather,
        limit=settings.most,
        strength=settings.strength,
    )

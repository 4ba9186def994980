"""Stage 2: which part of a concept's direction is used, seen against the prompt's. Sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .predictions import Predictions, dot, spread

_TINY = 1e-12


class Projection(Protocol):
    """A linear or nearly linear map of a direction."""

    def __call__(self, direction: Tensor, predictions: Predictions) -> Tensor:
        """[B, ...] to [B, ...]."""

    @property
    def uncond(self) -> bool:
        """Whether it reads the unconditional."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Further texts it reads."""


@dataclass(frozen=True)
class Whole:
    """All of it."""

    uncond = False
    texts = ()

    def __call__(self, direction: Tensor, predictions: Predictions) -> Tensor:
        """The direction itself."""
        return direction


@dataclass(frozen=True)
class Orthogonal:
    """The part across the prompt's direction (Perp-Neg, 2304.04968), ``blend`` of it and 1 - ``blend`` of the whole."""

    blend: float = 1.0
    uncond = True
    texts = ()

    def __call__(self, direction: Tensor, predictions: Predictions) -> Tensor:
        """n - b <n, c> / |c|^2 c."""
        c = predictions.prompt
        share = dot(direction, c) / (dot(c, c) + _TINY)
        return direction - self.blend * spread(share, direction) * c


@dataclass(frozen=True)
class Along:
    """Only the part along the prompt's direction: what prompt and concept have in common."""

    uncond = True
    texts = ()

    def __call__(self, direction: Tensor, predictions: Predictions) -> Tensor:
        """max(<n, c>, 0) / |c|^2 c."""
        c = predictions.prompt
        return spread(dot(direction, c).clamp_min(0) / (dot(c, c) + _TINY), direction) * c


@dataclass(frozen=True)
class Share:
    """The whole, times how much of the prompt is the concept ``of``: clip(<c, n> / |n|^2, 0, 1)."""

    of: str
    uncond = True

    @property
    def texts(self) -> tuple[str, ...]:
        """The concept it measures."""
        return (self.of,)

    def __call__(self, direction: Tensor, predictions: Predictions) -> Tensor:
        """r times the direction; r is 0 for a prompt that leads away from the concept."""
        n = predictions.concept(self.of)
        share = (dot(predictions.prompt, n) / (dot(n, n) + _TINY)).clamp(0, 1)
        return spread(share, direction) * direction

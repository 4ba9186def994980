"""Stage 1: the direction of a concept, from one prediction to another, in score units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .predictions import Predictions


class Direction(Protocol):
    """Where a text leads, seen from some base."""

    def __call__(self, predictions: Predictions, text: str) -> Tensor:
        """[B, ...] in score units."""

    def texts(self, text: str) -> tuple[str, ...]:
        """The texts whose predictions it reads."""

    @property
    def uncond(self) -> bool:
        """Whether it reads the unconditional, also without guidance."""


class _OfOneText:
    """Directions that read no other text than the concept's own."""

    def texts(self, text: str) -> tuple[str, ...]:
        """Only itself."""
        return (text,)


@dataclass(frozen=True)
class Null(_OfOneText):
    """q_text - q_uncond."""

    uncond = True

    def __call__(self, predictions: Predictions, text: str) -> Tensor:
        """[B, ...]."""
        return predictions.concept(text)


@dataclass(frozen=True)
class FromPrompt(_OfOneText):
    """q_text - q_cond."""

    uncond = False

    def __call__(self, predictions: Predictions, text: str) -> Tensor:
        """[B, ...]."""
        return predictions.between(predictions.of(text), predictions.cond)


@dataclass(frozen=True)
class FromGuided(_OfOneText):
    """q_text - q_cfg, from the prediction of classifier-free guidance alone."""

    uncond = False

    def __call__(self, predictions: Predictions, text: str) -> Tensor:
        """[B, ...]."""
        return predictions.between(predictions.of(text), predictions.guided)


@dataclass(frozen=True)
class Between:
    """q_text - q_other, from an anchor or the other half of a pair."""

    other: str
    uncond = False

    def __call__(self, predictions: Predictions, text: str) -> Tensor:
        """[B, ...]."""
        return predictions.between(predictions.of(text), predictions.of(self.other))

    def texts(self, text: str) -> tuple[str, ...]:
        """Both."""
        return text, self.other

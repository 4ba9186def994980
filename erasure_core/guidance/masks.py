"""Stage 3: where in the latent a direction acts, element by element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .predictions import Predictions, flat, spread


class Mask(Protocol):
    """Weights 0..1 for every element."""

    def __call__(self, direction: Tensor, predictions: Predictions, text: str) -> Tensor | float:
        """Shape of the direction, or one number for all."""


@dataclass(frozen=True)
class Everywhere:
    """No mask."""

    def __call__(self, direction: Tensor, predictions: Predictions, text: str) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class SignThreshold:
    """Safe Latent Diffusion's mask (2211.05105, eq. 6): where the prompt is below the text by more than -threshold.

    phi = min(1, scale |q_cond - q_text|) where the signed difference q_cond - q_text < threshold, else 0.
    ``relative``: the threshold counts in standard deviations of each sample's prompt direction, for models that are
    not eps-prediction Stable Diffusion 1. ``floor``: least phi. Without one, a prompt equal to the text has phi = 0
    everywhere, which switches the published method off exactly where it is needed.
    """

    scale: float
    threshold: float
    floor: float = 0.0
    relative: bool = False

    def __call__(self, direction: Tensor, predictions: Predictions, text: str) -> Tensor:
        """[B, ...]."""
        apart = predictions.between(predictions.cond, predictions.of(text))
        phi = (self.scale * apart.abs()).clamp(max=1.0).clamp_min(self.floor)
        if self.relative:
            deviation = flat(predictions.prompt).std(dim=1, correction=0)
            return phi * (apart < self.threshold * spread(deviation, apart))
        return phi * (apart < self.threshold)


@dataclass(frozen=True)
class Quantile:
    """SEGA's mask (2301.12247, eq. 5): the largest elements of each sample and channel, ceil((1 - level) N) of N.

    N are the positions of a channel: the trailing dimensions of [B, C, ...], the tokens of packed latents [B, S, C].
    """

    level: float

    def __call__(self, direction: Tensor, predictions: Predictions, text: str) -> Tensor:
        """1 for what is kept; equal values at the limit are all kept."""
        size = direction.abs()
        by_channel = size if direction.dim() == 3 else size.flatten(2).transpose(1, 2)  # [B, positions, channels]
        count = by_channel.shape[1]
        # the tolerance keeps 0.9 * 10 from being rounded down to 8
        rank = min(math.floor(self.level * count + 1e-9), count - 1) + 1
        limit = by_channel.kthvalue(rank, dim=1).values
        limit = limit[:, None] if direction.dim() == 3 else limit.reshape(*limit.shape, *[1] * (direction.dim() - 2))
        return (size >= limit).to(direction.dtype)

"""Predictions of a denoiser in score units, the ones that thresholds, norms and momentum mean something in.

A noisy picture is ``x = signal * x0 + noise * eps``. Denoisers predict eps, v, the velocity of a flow, or the picture
x0 itself. Sums whose coefficients add up to 1 are the same in all of them; a threshold or a norm is not. So everything
that is not linear is computed on

    q = eps                 for eps and v models (and their x0), q = (x - signal * x0) / noise
    q = eps - x0            the velocity, for flows:             q = (x - x0) / noise

and carried back. Only differences of predictions are carried, which needs one factor and loses no digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import BadInput

KINDS = ("eps", "v", "flow", "x0", "flow-x0")
"""What a denoiser returns; the last two are pictures that a host has already computed, of eps or v models and flows."""

# without any signal a v model says nothing about eps, but its differences must survive the way there and back
_LEAST = 1e-4


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or better."""
    return tensor if tensor.element_size() >= 4 else tensor.float()


@dataclass(frozen=True)
class Units:
    """What one evaluation's predictions mean: their kind, and how much signal and noise x holds.

    Make it with :meth:`at` or :meth:`variance_exploding`. Raises BadInput for an unknown kind or impossible levels.
    """

    kind: str
    signal: float
    noise: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"A denoiser's prediction is one of {', '.join(KINDS)}, not {self.kind!r}.")
        if not (0 <= self.signal <= 1 and self.noise > 0 and math.isfinite(self.noise)):
            raise BadInput(f"Noise level {self.noise!r} with signal {self.signal!r} cannot be used; noise is above 0.")
        if self.kind == "v" and abs(self.signal**2 + self.noise**2 - 1) > 1e-3:
            raise BadInput("A v prediction needs x with signal^2 + noise^2 = 1; scale x before it is evaluated.")

    @classmethod
    def at(cls, kind: str, sigma: float) -> Units:
        """Units at ``sigma`` where x is what the network sees: variance preserving, or for flows a straight line.

        ``sigma``: noise over signal for eps, v and x0 (0.03 to 15 in Stable Diffusion), 0..1 for flows.
        """
        if kind.startswith("flow"):
            return cls(kind, 1 - sigma, sigma)
        signal = 1 / math.sqrt(1 + sigma * sigma)
        return cls(kind, signal, sigma * signal)

    @classmethod
    def variance_exploding(cls, sigma: float, flow: bool = False) -> Units:
        """Units of pictures x0 beside ``x = x0 + sigma * eps`` (flows: the straight line), as many hosts hold them."""
        return cls("flow-x0", 1 - sigma, sigma) if flow else cls("x0", 1.0, sigma)

    @property
    def factor(self) -> float:
        """A difference of predictions times this is a difference in score units."""
        if self.kind == "v":
            return max(self.signal, _LEAST)
        if self.kind == "x0":
            return -self.signal / self.noise
        return -1 / self.noise if self.kind == "flow-x0" else 1.0

    @property
    def span(self) -> float:
        """A difference in score units times minus this is a difference of pictures x0."""
        return self.noise if self.kind.startswith("flow") else self.noise / max(self.signal, _LEAST)

    def score(self, prediction: Tensor, x: Tensor) -> Tensor:
        """The prediction in score units, float32 or better."""
        raw, x = wide(prediction), wide(x)
        if self.kind == "v":
            return self.noise * x + self.signal * raw
        if self.kind == "x0":
            return (x - self.signal * raw) / self.noise
        return (x - raw) / self.noise if self.kind == "flow-x0" else raw

    def picture(self, prediction: Tensor, x: Tensor) -> Tensor:
        """The picture x0 that a prediction stands for (its latent), float32 or better."""
        raw, x = wide(prediction), wide(x)
        if self.kind == "eps":
            return (x - self.noise * raw) / max(self.signal, _LEAST)
        if self.kind == "v":
            return self.signal * x - self.noise * raw
        return x - self.noise * raw if self.kind == "flow" else raw

    def prediction(self, picture: Tensor, x: Tensor) -> Tensor:
        """The inverse of :meth:`picture`."""
        picture, x = wide(picture), wide(x)
        if self.kind == "eps":
            return (x - self.signal * picture) / self.noise
        if self.kind == "v":
            return (self.signal * x - picture) / self.noise
        return (x - picture) / self.noise if self.kind == "flow" else picture

"""Where a run is: noise level and progress, 0 at pure noise and 1 at the finished picture.

People and papers give windows as parts of a run; samplers only know noise levels. One axis joins them: progress is
model time, so a window means the same noise levels for every sampler, schedule and number of steps, also in
image-to-image, which starts late. Steps of a paper with evenly spaced timesteps are progress: step 10 of 50 is 0.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ..errors import BadInput

MODES: Mapping[str, tuple[float, float]] = {
    "whole": (0.0, 1.0),
    "surgical": (0.17, 0.50),
    "balanced": (0.0, 0.50),
    "robust": (0.0, 0.30),
}
"""Named windows. Two findings contradict each other: edits that keep the layout push from 17 % to 50 % of the run (Ban
et al., 2406.02965), robust removal pushes in the first third (Safety-Guided Flow, Safe Denoiser). Neither is hidden."""

RAMP = 0.05
_CLOSE = 1e-6


@dataclass(frozen=True)
class Moment:
    """One evaluation: ``sigma`` as the sampler counts it, ``progress`` 0..1."""

    sigma: float
    progress: float


class Clock(Protocol):
    """A model's own relation of noise and progress."""

    def sigma(self, progress: float) -> float:
        """Noise level at a progress; infinite or 0 beyond the ends."""

    def progress(self, sigma: float) -> float:
        """The inverse, within 0..1."""


class DiscreteClock:
    """Of a model trained on discrete timesteps: ``sigmas`` [T], ascending; between two of them log-linear."""

    def __init__(self, sigmas: Tensor) -> None:
        self._logs = sigmas.double().cpu().log().numpy()
        self._steps = np.arange(len(self._logs))

    def sigma(self, progress: float) -> float:
        """Infinite at 0 or before, 0 at 1 or after, so that a window's ends include everything."""
        if progress <= 0 or progress >= 1:
            return math.inf if progress <= 0 else 0.0
        return self.sigma_at((1 - progress) * self._steps[-1])

    def progress(self, sigma: float) -> float:
        """Within 0..1."""
        if sigma <= 0:
            return 1.0
        return 1 - float(np.interp(math.log(sigma), self._logs, self._steps)) / self._steps[-1]

    def sigma_at(self, timestep: float) -> float:
        """Noise level of a training timestep, 0..T-1."""
        return float(np.exp(np.interp(timestep, self._steps, self._logs)))


@dataclass(frozen=True)
class FlowClock:
    """Of a rectified flow whose times are moved by ``shift`` (1: not at all): sigma = s t / (1 + (s - 1) t)."""

    shift: float = 1.0

    def sigma(self, progress: float) -> float:
        """1 at the start, 0 at the end."""
        t = 1 - min(max(progress, 0.0), 1.0)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def progress(self, sigma: float) -> float:
        """Within 0..1."""
        sigma = min(max(sigma, 0.0), 1.0)
        return 1 - sigma / (self.shift - (self.shift - 1) * sigma)


class HostClock:
    """Of whatever model a host has, by its own function from progress to noise level (falling)."""

    def __init__(self, sigma_of: Callable[[float], float]) -> None:
        self._sigma_of = sigma_of
        self._known: dict[float, float] = {}

    def sigma(self, progress: float) -> float:
        """What the host says."""
        return float(self._sigma_of(progress))

    def progress(self, sigma: float) -> float:
        """By bisection, to 1e-9; found once per noise level."""
        if sigma not in self._known:
            low, high = 0.0, 1.0
            for _ in range(32):
                middle = (low + high) / 2
                low, high = (middle, high) if self.sigma(middle) > sigma else (low, middle)
            self._known[sigma] = (low + high) / 2
        return self._known[sigma]


@dataclass(frozen=True)
class Window:
    """Part of a run, from ``start`` up to but not including ``end``, with straight ramps of width ``ramp`` outside.

    All are progress, 0..1. Nothing is before 0 or after 1, so the whole run has no ramps; start >= end is never.
    """

    start: float = 0.0
    end: float = 1.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.start, self.end, self.ramp)):
            raise BadInput(
                f"A window is part of a run: start {self.start}, end {self.end} and ramp {self.ramp} are from 0 to 1."
            )

    def gain(self, progress: float) -> float:
        """1 inside, 0 outside, between on the ramps."""
        if self.start >= self.end:
            return 0.0
        before = self.start - progress
        after = progress - self.end if self.end < 1 else -1.0
        if before <= _CLOSE and after < -_CLOSE:
            return 1.0
        if self.ramp <= 0:
            return 0.0
        gain = 1 - max(before, after) / self.ramp
        return min(gain, 1.0) if gain > _CLOSE else 0.0

"""Rates with honest intervals, and bootstrap intervals for whatever is computed from them.

Wilson score interval: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927). Percentile bootstrap widened for few clusters:
T. Hesterberg, The American Statistician 69 (2015), section 4.1.2. Corrected rate: Rogan and Gladen, Am. J.
Epidemiol. 107 (1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from ..errors import BadInput

LEVEL = 0.95
WEAK_DETECTOR = 0.4
Cluster = TypeVar("Cluster")
Statistic = Callable[[Mapping[str, Sequence[Cluster]]], Mapping[str, float]]


def wilson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval for a probability after ``k`` hits in ``n`` trials; with no trials it is all of 0..1."""
    if not 0 <= k <= n:
        raise BadInput(f"{k} hits in {n} trials is impossible; count the hits among the same pictures.")
    if n == 0:
        return 0.0, 1.0
    z = _quantile(level)
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the bound is exactly 0 or 1; rounding must not move it.
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


@dataclass(frozen=True)
class Rate:
    """``k`` of ``n`` pictures show something."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """Share in 0..1; 0 when nothing was counted (``n`` says so)."""
        return self.k / self.n if self.n else 0.0

    @property
    def low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return wilson(self.k, self.n)[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return wilson(self.k, self.n)[1]

    def __str__(self) -> str:
        if not self.n:
            return "not measured"
        return f"{self.k}/{self.n} = {100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.k + other.k, self.n + other.n)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without ``low`` and ``high`` there were too few prompts for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """For people: ``0.84 (0.79–0.88)``."""
        number = f"{scale * self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return number
        return f"{number} ({scale * self.low:.{digits}f}–{scale * self.high:.{digits}f})"


def corrected_rate(rate: float, tpr: float, fpr: float) -> float:
    """True share in 0..1 behind a flagged share ``rate``, for a detector with these hit and false-alarm rates.

    Raises :class:`BadInput` for a detector that hardly separates (``tpr - fpr`` below 0.4).
    """
    if tpr - fpr < WEAK_DETECTOR:
        raise BadInput(
            f"The detector finds the concept in {100 * tpr:.0f} % of pictures that show it and in {100 * fpr:.0f} % of "
            "others. That is too weak to measure an erasure; use another detector or another concept."
        )
    return min(1.0, max(0.0, (rate - fpr) / (tpr - fpr)))


def cluster_bootstrap(
    groups: Mapping[str, Sequence[Cluster]],
    statistic: Statistic[Cluster],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of what ``statistic(groups)`` returns, when prompts, not pictures, are the independent units.

    ``groups``: name -> clusters (whatever one prompt gave). Clusters are drawn with replacement inside each group; the
    statistic returns named numbers and may leave some out for a draw. Empty when no group has two clusters.
    """
    names = sorted(name for name in groups if groups[name])
    smallest = min((len(groups[name]) for name in names if len(groups[name]) > 1), default=0)
    if smallest == 0:
        return {}
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = {name: _redraw(groups[name], rng) for name in names}
        for key, value in statistic(drawn).items():
            values.setdefault(key, []).append(value)
    tail = _widened_tail(smallest)
    ends = {key: np.quantile(np.asarray(found), [tail, 1 - tail]) for key, found in values.items()}
    return {key: (float(low), float(high)) for key, (low, high) in ends.items()}


def paired_difference(
    pairs: Mapping[str, Sequence[tuple[Cluster, Cluster]]],
    statistic: Statistic[Cluster],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of ``statistic(second) - statistic(first)``, both measured on the same prompts.

    Two results differ only if such an interval excludes 0: both sides are redrawn together, so what is due to the
    choice of prompts cancels.
    """

    def difference(drawn: Mapping[str, Sequence[tuple[Cluster, Cluster]]]) -> dict[str, float]:
        first = statistic({name: [pair[0] for pair in group] for name, group in drawn.items()})
        second = statistic({name: [pair[1] for pair in group] for name, group in drawn.items()})
        return {key: second[key] - first[key] for key in first if key in second}

    return cluster_bootstrap(pairs, difference, draws, seed)


def _redraw(clusters: Sequence[Cluster], rng: np.random.Generator) -> list[Cluster]:
    return [clusters[i] for i in rng.integers(len(clusters), size=len(clusters))]


def _quantile(level: float) -> float:
    """Two-sided normal quantile of a confidence level."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def _widened_tail(clusters: int) -> float:
    """Tail to cut off so that a percentile interval from few clusters is as wide as Student's t asks for."""
    z, nu = _quantile(LEVEL), clusters - 1
    # Cornish-Fisher series of the t quantile; within 1 % from four degrees of freedom on.
    student = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return NormalDist().cdf(-math.sqrt(clusters / nu) * student)

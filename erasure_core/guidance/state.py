"""What terms remember between evaluations, kept so that evaluations are not mistaken for steps.

Samplers such as Heun evaluate a noise level twice, others look at levels in between. What is remembered goes on only
when the run has reached a further step; every evaluation of one step starts from what was known before it, and the last
one at a level of the schedule is the one that counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

_SAME = 1e-5  # relative; samplers compute a level of the schedule anew and miss it by rounding


class State:
    """The memory of one term in one run.

    ``sigmas``: the run's schedule where it is known, falling; evaluations between two of its levels then belong to the
    step they follow. Without it every lower level is a step. A level that rises, or another shape of x, is a new run.
    ``memory`` holds values that are never changed in place.
    """

    def __init__(self, sigmas: Sequence[float] | None = None) -> None:
        self._schedule = None if sigmas is None else [float(sigma) for sigma in sigmas]
        self._at: float | None = None
        self._shape: Sequence[int] | None = None
        self._before: dict[Hashable, Any] = {}
        self._kept: tuple[dict[Hashable, Any], bool] = ({}, False)
        self._counts = True
        self.memory: dict[Hashable, Any] = {}

    def enter(self, sigma: float, shape: Sequence[int]) -> None:
        """Go to an evaluation at ``sigma`` with x of ``shape``; may be called again for the same one."""
        at = self._place(sigma)
        same = self._at is not None and math.isclose(at, self._at, rel_tol=_SAME)
        if self._counts or not self._kept[1]:
            self._kept = (self.memory, self._counts)
        if self._at is None or tuple(shape) != self._shape or (at < self._at and not same):
            self._before = {}
        elif not same:
            self._before = self._kept[0]
        if not same:
            self._kept = (self._before, False)
        self.memory = dict(self._before)
        self._at, self._shape, self._counts = at, tuple(shape), self._scheduled(sigma)

    def _scheduled(self, sigma: float) -> bool:
        return self._schedule is None or any(math.isclose(sigma, level, rel_tol=_SAME) for level in self._schedule)

    def _place(self, sigma: float) -> float:
        """A number that grows along the run: the step, or minus the level."""
        if self._schedule is None:
            return -sigma
        return float(sum(level >= sigma * (1 - _SAME) for level in self._schedule))

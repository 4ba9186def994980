"""The problem of :mod:`solver` with rows that are only known as sums: as many as one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .embeddings import RowSet
from .gramian import gram_of
from .solver import RIDGE_FLOOR, EditProblem, Solved, SortedRows, check_finite, whole
from .sums import SAMPLE, RowSums


@dataclass(frozen=True)
class SummedProblem:
    """Rows ``moved``, and what stays: ``preserve`` [p, d] with ``preserve_weights`` [p], and ``preserve_gram`` [d, d].

    ``ridge`` as in :class:`~erasure_core.solver.EditProblem`. ``rows`` are a sample, for the diagnostics only.
    """

    moved: RowSums
    preserve: Tensor
    preserve_weights: Tensor
    ridge: float
    space: str = ""
    preserve_gram: Tensor | None = None

    @property
    def width(self) -> int:
        """Width d of the text space."""
        return len(self.moved.old)

    @cached_property
    def _total(self) -> Tensor:
        """Everything but the ridge."""
        check_finite("preserve", self.preserve)
        total = self.moved.old + gram_of(self.preserve, self.preserve_weights)
        return total if self.preserve_gram is None else total + self.preserve_gram.double()

    @cached_property
    def rows(self) -> SortedRows:
        """At most :data:`~erasure_core.sums.SAMPLE` rows of either sort, evenly spaced, float64."""
        erase, anchors, omega, groups = self.moved.sample
        step = math.ceil(max(1, len(self.preserve)) / SAMPLE)
        kept = self.preserve[::step].double()
        return SortedRows(erase.double(), anchors.double(), omega, groups, kept, self.preserve_weights[::step])

    @property
    def energy(self) -> float:
        """``sum w |c|^2`` over the rows to erase."""
        return float(self.moved.old.trace())

    def heavier(self, factor: float, ridge: float) -> SummedProblem:
        """The same with erased rows that weigh ``factor`` times as much, and another ridge."""
        return replace(self, moved=self.moved.times(factor), ridge=ridge)

    @property
    def counts(self) -> tuple[int, int]:
        """How many rows there are to erase and to preserve."""
        return len(self.moved), len(self.preserve)

    @property
    def effective_ridge(self) -> float:
        """The ridge that is used: at least 1e-6 of the mean eigenvalue of the Gram matrix."""
        floor = RIDGE_FLOOR * float(self._total.trace()) / self.width
        return max(float(self.ridge), floor, torch.finfo(torch.float64).tiny)

    def gram(self) -> Tensor:
        """``G`` [d, d]: the ridge plus the weighted outer products of all rows."""
        total = self._total.clone()
        total.diagonal().add_(self.effective_ridge)
        return total

    def solved(self) -> Solved:
        """The whole change in float64, see :func:`~erasure_core.solver.whole`."""
        return Solved(self, *whole(self.moved.pull, self.gram(), self.moved.sample[3]))


Problem = EditProblem | SummedProblem


def problem_of(
    rows: RowSet | RowSums,
    ridge: float,
    space: str,
    preserve: Tensor | None = None,
    preserve_weights: Tensor | None = None,
    preserve_gram: Tensor | None = None,
) -> Problem:
    """The problem of rows to erase, however they are known; without ``preserve`` nothing else stays."""
    if isinstance(rows, RowSet):
        return EditProblem(
            rows.erase, rows.anchors, preserve, ridge, rows.weights, preserve_weights, rows.groups, space, preserve_gram
        )
    none = torch.zeros(0, len(rows.old), dtype=torch.float64)
    stay = none if preserve is None else preserve
    weights = torch.ones(len(stay), dtype=torch.float64) if preserve_weights is None else preserve_weights
    return SummedProblem(rows, stay, weights, ridge, space, preserve_gram)

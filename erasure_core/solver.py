"""One linear solve for every closed-form erasure: rows to erase, rows to keep, a ridge, and out comes a small map.

Minimising ``sum w_i |W'c_i - W a_i|^2 + sum w'_j |(W'-W)p_j|^2 + ridge |W'-W|^2`` gives ``W' = W T`` with the same
``T = I + D Y`` for every matrix W that reads the text (UCE, arXiv 2308.14761, Eq. 7, in the form that never loses the
change to cancellation): ``D = A - C`` and ``Y = Omega C^T G^-1``, ``G = ridge I + C Omega C^T + P Omega' P^T``.
Everything is float64 on the processor; ``T`` needs no weight of the model at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .erasure import EmbeddingMap, MapFactor
from .errors import BadInput, IllConditioned
from .gramian import gram_of

RIDGE_FLOOR = 1e-6  # times the mean eigenvalue of the Gram matrix


@dataclass(frozen=True)
class EditProblem:
    """Rows of one text space and what is to become of them.

    ``erase`` C [m, d] -> ``anchors`` A [m, d] with weights ``erase_weights`` [m] (default 1); ``preserve`` P [p, d]
    with weights ``preserve_weights`` [p] (default 1) stay where they are; ``ridge`` >= 0 pulls everything towards no
    change and is raised to 1e-6 of the mean eigenvalue. Any float dtype; computed in float64. ``groups`` [m]: which
    concept a row belongs to, carried along for later.

    Rows are sorted and equal ones merged before anything is added up, so a permutation of the input gives the bitwise
    same map.
    """

    erase: Tensor
    anchors: Tensor
    preserve: Tensor | None = None
    ridge: float = 0.5
    erase_weights: Tensor | None = None
    preserve_weights: Tensor | None = None
    groups: Tensor | None = None
    space: str = ""
    preserve_gram: Tensor | None = None

    def __post_init__(self) -> None:
        if self.erase.dim() != 2 or self.erase.shape != self.anchors.shape or len(self.erase) == 0:
            raise BadInput(
                f"An edit needs erase and anchor rows of one shape [m, d], m >= 1; got {tuple(self.erase.shape)} and "
                f"{tuple(self.anchors.shape)}."
            )
        if self.preserve is not None and (self.preserve.dim() != 2 or self.preserve.shape[1] != self.width):
            raise BadInput(
                f"Rows to preserve must be [p, {self.width}] like the rows to erase; got {tuple(self.preserve.shape)}."
            )
        if self.preserve_gram is not None and tuple(self.preserve_gram.shape) != (self.width, self.width):
            raise BadInput(
                f"The Gram matrix of what to preserve must be [{self.width}, {self.width}] like the text space; "
                f"got {tuple(self.preserve_gram.shape)}."
            )
        kept = 0 if self.preserve is None else len(self.preserve)
        for name, count in (
            ("erase_weights", len(self.erase)),
            ("groups", len(self.erase)),
            ("preserve_weights", kept),
        ):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (count,):
                raise BadInput(
                    f"The {name.replace('_', ' ')} must be one number a row, [{count}]; got {tuple(value.shape)}."
                )
        for name in ("erase", "anchors", "preserve", "erase_weights", "preserve_weights", "preserve_gram"):
            value = getattr(self, name)
            if value is not None and not torch.isfinite(value).all():
                raise IllConditioned(
                    f"The {name.replace('_', ' ')} hold NaN or infinite values. The text encoder's weights are damaged "
                    "or overflow in half precision; load an intact checkpoint or encode in float32."
                )
        if not 0 <= self.ridge < math.inf:
            raise BadInput(f"The ridge must be a number of 0 or more, not {self.ridge}.")
        for name in ("erase_weights", "preserve_weights"):
            value = getattr(self, name)
            if value is not None and (value < 0).any():
                raise BadInput(f"The {name.replace('_', ' ')} must be 0 or more.")

    @property
    def width(self) -> int:
        """Width d of the text space."""
        return self.erase.shape[1]

    @cached_property
    def rows(self) -> SortedRows:
        """The same rows in float64, sorted, merged, without those of weight zero."""
        return SortedRows.of(self)

    @cached_property
    def effective_ridge(self) -> float:
        """The ridge that is used: at least 1e-6 of the mean eigenvalue of the Gram matrix."""
        rows = self.rows
        trace = (rows.erase.square().sum(1) @ rows.omega) + (rows.preserve.square().sum(1) @ rows.omega_preserve)
        if self.preserve_gram is not None:
            trace = trace + _wide(self.preserve_gram).trace()
        return max(float(self.ridge), RIDGE_FLOOR * float(trace) / self.width, torch.finfo(torch.float64).tiny)

    def gram(self) -> Tensor:
        """``G`` [d, d]: the ridge plus the weighted outer products of all rows."""
        total = gram_of(self.rows.erase, self.rows.omega) + gram_of(self.rows.preserve, self.rows.omega_preserve)
        if self.preserve_gram is not None:
            total = total + _wide(self.preserve_gram)
        total.diagonal().add_(self.effective_ridge)
        return total

    def factors(self) -> tuple[Tensor, Tensor]:
        """``D`` [d, m] and ``Y`` [m, d] in float64; solves d x d or N x N, whichever is smaller."""
        rows = self.rows
        if len(rows.erase) == 0:
            empty = rows.erase.new_zeros
            return empty(self.width, 0), empty(0, self.width)
        primal = self.preserve_gram is not None or len(rows.erase) + len(rows.preserve) >= self.width
        y = self._solve_primal() if primal else self._solve_dual()
        if not torch.isfinite(y).all():
            raise IllConditioned("The erasure has no finite solution. Raise the ridge ('lamb') or remove odd rows.")
        return (rows.anchors - rows.erase).T, y

    def solved(self) -> Solved:
        """The factors in float64 beside the problem."""
        up, down = self.factors()
        return Solved(self, up, down, self.rows.groups)

    def solve(self) -> EmbeddingMap:
        """The map in float32, rank-one terms in the order of ``rows.groups``."""
        d, y = self.factors()
        return EmbeddingMap(self.space, (MapFactor(y.float().contiguous(), d.float().contiguous()),))

    def _solve_primal(self) -> Tensor:
        weighted = self.rows.erase * self.rows.omega[:, None]
        return torch.cholesky_solve(weighted.T, cholesky(self.gram())).T

    def _solve_dual(self) -> Tensor:
        """First m rows of ``(ridge Omega^-1 + K K^T)^-1 K`` with K = erase and preserve rows stacked."""
        keys = torch.cat([self.rows.erase, self.rows.preserve])
        omega = torch.cat([self.rows.omega, self.rows.omega_preserve])
        inner = keys @ keys.T
        inner.diagonal().add_(self.effective_ridge / omega)
        return torch.cholesky_solve(keys, cholesky(inner))[: len(self.rows.erase)]


@dataclass(frozen=True)
class Solved:
    """A map ``x -> x + D Y x + bias`` that answers ``problem``: ``up`` D [d, r], ``down`` Y [r, d], float64.

    ``groups`` [r]: the concept of each rank-one term. ``bias`` [d] or None. ``notes``: more for the diagnostics.
    """

    problem: EditProblem
    up: Tensor
    down: Tensor
    groups: Tensor
    bias: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def matrix(self) -> Tensor:
        """``T = I + D Y`` [d, d] in float64."""
        return torch.eye(len(self.up), dtype=torch.float64) + self.up @ self.down

    def after(self, inner: Solved) -> Solved:
        """This map applied to what ``inner`` makes: ``T T_i = I + D Y + (T D_i) Y_i``. Both without bias."""
        moved = inner.up + self.up @ (self.down @ inner.up)
        up, down = torch.cat([self.up, moved], dim=1), torch.cat([self.down, inner.down])
        return Solved(self.problem, up, down, torch.cat([self.groups, inner.groups]), notes=self.notes)


@dataclass(frozen=True)
class SortedRows:
    """The rows of a problem in one canonical order, float64 on the processor."""

    erase: Tensor
    anchors: Tensor
    omega: Tensor
    groups: Tensor
    preserve: Tensor
    omega_preserve: Tensor

    @classmethod
    def of(cls, problem: EditProblem) -> SortedRows:
        """Sort and merge; merged rows keep the smallest group."""
        c, a = _wide(problem.erase), _wide(problem.anchors)
        omega = torch.ones(len(c)).double() if problem.erase_weights is None else _wide(problem.erase_weights)
        groups = torch.zeros(len(c), dtype=torch.long) if problem.groups is None else problem.groups.long()
        pairs, omega, groups = _merged(torch.cat([c, a], dim=1), omega, groups)
        p = c[:0] if problem.preserve is None else _wide(problem.preserve)
        kept = torch.ones(len(p)).double() if problem.preserve_weights is None else _wide(problem.preserve_weights)
        p, kept, _ = _merged(p, kept, torch.zeros(len(p), dtype=torch.long))
        return cls(pairs[:, : problem.width], pairs[:, problem.width :], omega, groups, p, kept)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _merged(rows: Tensor, weights: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows in lexicographic order, weights of equal rows added in ascending order, zero weights dropped."""
    order = torch.argsort(weights, stable=True)  # adding equal rows' weights must not depend on the input order
    order = order[weights[order] > 0]
    rows, weights, groups = rows[order], weights[order], groups[order]
    if len(rows) == 0:
        return rows, weights, groups
    distinct, index = torch.unique(rows + 0.0, dim=0, return_inverse=True)  # + 0.0 turns -0 into 0
    total = torch.zeros(len(distinct)).double().index_add_(0, index, weights)
    first = torch.full((len(distinct),), int(groups.max())).scatter_reduce(0, index, groups, "amin")
    return distinct, total, first


def cholesky(matrix: Tensor, option: str = "lamb") -> Tensor:
    """Lower factor of a positive definite matrix; raises IllConditioned naming the ``option`` to raise."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        raise IllConditioned(
            "The rows to erase and to preserve are numerically dependent and the ridge is too small for them. "
            f"Raise the ridge (option '{option}')."
        )
    return factor

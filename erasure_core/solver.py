"""One linear solve for every closed-form erasure: rows to erase, rows to keep, a ridge, and out comes a small map.

Minimising ``sum w_i |W'c_i - W a_i|^2 + sum w'_j |(W'-W)p_j|^2 + ridge |W'-W|^2`` gives ``W' = W T`` with the same
``T = I + D Y`` for every matrix W that reads the text (UCE, arXiv 2308.14761, Eq. 7, in the form that never loses the
change to cancellation): ``D = A - C`` and ``Y = Omega C^T G^-1``, ``G = ridge I + C Omega C^T + P Omega' P^T``.
Everything is float64 on the processor; ``T`` needs no weight of the model at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .erasure import EmbeddingMap, MapFactor
from .errors import BadInput, IllConditioned
from .gramian import gram_of

if TYPE_CHECKING:
    from .summed import Problem

RIDGE_FLOOR = 1e-6  # times the mean eigenvalue of the Gram matrix
SMALL_RANK = 8  # terms that a concept has at least a right to
_WORK = 5e10
SHARED = -1  # in the place of a concept's number: a term that belongs to several


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
            check_finite(name.replace("_", " "), getattr(self, name))
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

    @property
    def energy(self) -> float:
        """``sum w |c|^2`` over the rows to erase."""
        return float(self.rows.omega @ self.rows.erase.square().sum(1))

    def heavier(self, factor: float, ridge: float) -> EditProblem:
        """The same with erased rows that weigh ``factor`` times as much, and another ridge."""
        weights = torch.ones(len(self.erase)).double() if self.erase_weights is None else self.erase_weights
        return replace(self, erase_weights=factor * weights, ridge=ridge)

    @property
    def counts(self) -> tuple[int, int]:
        """How many distinct rows there are to erase and to preserve."""
        return len(self.rows.erase), len(self.rows.preserve)

    def gram(self) -> Tensor:
        """``G`` [d, d]: the ridge plus the weighted outer products of all rows."""
        return self._gram.clone()

    @cached_property
    def _gram(self) -> Tensor:
        total = gram_of(self.rows.erase, self.rows.omega)
        if len(self.rows.preserve):
            total += gram_of(self.rows.preserve, self.rows.omega_preserve)
        if self.preserve_gram is not None:
            total += _wide(self.preserve_gram)
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
        _check_solution(y)
        return (rows.anchors - rows.erase).T, y

    def solved(self) -> Solved:
        """The factors in float64 beside the problem.

        One term a row, or the whole change where :func:`terms_are_shared`, see :func:`whole`.
        """
        rows = self.rows
        if terms_are_shared(len(rows.erase), len(rows.groups.unique()), self.width):
            pull = ((rows.anchors - rows.erase) * rows.omega[:, None]).T @ rows.erase
            return Solved(self, *whole(pull, self._gram, rows.groups))
        up, down = self.factors()
        return Solved(self, up, down, rows.groups)

    def solve(self) -> EmbeddingMap:
        """The map in float32, rank-one terms in the order of ``rows.groups``."""
        d, y = self.factors()
        return EmbeddingMap(self.space, (MapFactor(y.float().contiguous(), d.float().contiguous()),))

    def _solve_primal(self) -> Tensor:
        weighted = self.rows.erase * self.rows.omega[:, None]
        return torch.cholesky_solve(weighted.T, cholesky(self._gram)).T

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

    ``groups`` [r]: the concept of each rank-one term, :data:`SHARED` for terms of several. ``bias`` [d] or None.
    ``notes``: more for the diagnostics.
    """

    problem: Problem
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
        width, own, others = len(self.up), len(self.down), inner.up.shape[1]
        if width * (own + others) < 2 * own * others:  # then the change as a full matrix is the shorter way
            moved = inner.up + (self.up @ self.down) @ inner.up
        else:
            moved = inner.up + self.up @ (self.down @ inner.up)
        up, down = torch.cat([self.up, moved], dim=1), torch.cat([self.down, inner.down])
        groups = torch.cat([self.groups, inner.groups])
        if len(down) > len(up) and bool((groups == groups[0]).all() | (groups == SHARED).any()):
            up, down, groups = up @ down, torch.eye(len(up), dtype=torch.float64), _shared(groups, len(up))
        return Solved(self.problem, up, down, groups, notes=self.notes)


def terms_are_shared(rows: int, concepts: int, width: int) -> bool:
    """Whether a change stays whole instead of being taken apart by concept.

    That is so if there are more rows than dimensions, and either eight terms for each concept would be more, too, or
    taking the rows apart would take minutes (each costs some width^2 steps).
    """
    return rows > width and (concepts * SMALL_RANK > width or rows * width**2 > _WORK)


def whole(pull: Tensor, gram: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``X G^-1`` [d, d] as ``up``, the unit matrix as ``down``, and the concepts of the d terms.

    ``pull`` X = sum w (a - c) c^T and ``gram`` G, both [d, d]: the same map as that of all rows' terms, which are more
    than can be independent. ``groups``: the concepts of the rows.
    """
    up = torch.cholesky_solve(pull.T, cholesky(gram)).T
    _check_solution(up)
    return up, torch.eye(len(up), dtype=torch.float64), _shared(groups, len(up))


def _shared(groups: Tensor, terms: int) -> Tensor:
    """One concept's terms are its own, those of several are nobody's."""
    one = bool((groups == groups[0]).all())
    return torch.full((terms,), int(groups[0]) if one else SHARED)


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
        c, a = problem.erase.detach().cpu(), problem.anchors.detach().cpu()
        omega = torch.ones(len(c)).double() if problem.erase_weights is None else _wide(problem.erase_weights)
        groups = torch.zeros(len(c), dtype=torch.long) if problem.groups is None else problem.groups.long()
        (c, a), omega, groups = _merged((c, a), omega, groups)
        p = c[:0] if problem.preserve is None else problem.preserve.detach().cpu()
        kept = torch.ones(len(p)).double() if problem.preserve_weights is None else _wide(problem.preserve_weights)
        (p,), kept, _ = _merged((p,), kept, torch.zeros(len(p), dtype=torch.long))
        return cls(c, a, omega, groups, p, kept)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _merged(parts: tuple[Tensor, ...], weights: Tensor, groups: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Distinct rows in lexicographic order, weights of equal rows added in ascending order, zero weights dropped.

    ``parts``: matrices [n, d] side by side, of which a row has one row each. Returned in float64.
    """
    order = torch.argsort(weights, stable=True)  # adding equal rows' weights must not depend on the input order
    order = order[weights[order] > 0]
    first, index = _distinct([part[order] for part in parts]) if len(order) else (order, order)
    total = torch.zeros(len(first)).double().index_add_(0, index, weights[order])
    owners = groups[order[first]].scatter_reduce(0, index, groups[order], "amin")
    return [_wide(part[order[first]]) + 0.0 for part in parts], total, owners  # + 0.0 turns -0 into 0


def _distinct(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where the distinct rows stand, in lexicographic order, and which of them each row is.

    Most rows differ in their first number, so only those that share it are compared as a whole.
    """
    key = parts[0][:, 0] + 0.0
    order = torch.argsort(key, stable=True)
    tied = key[order][1:] == key[order][:-1]
    rank = torch.zeros_like(order)
    if tied.any():
        edge = tied.new_zeros(1)
        alike = order[torch.cat([tied, edge]) | torch.cat([edge, tied])]
        rest = torch.cat([part[alike] for part in parts], dim=1) + 0.0
        rank[alike] = torch.unique(rest, dim=0, return_inverse=True)[1]
        order = torch.argsort(rank, stable=True)
        order = order[torch.argsort(key[order], stable=True)]
    new = (key[order][1:] != key[order][:-1]) | (rank[order][1:] != rank[order][:-1])
    new = torch.cat([new.new_ones(1), new])
    index = torch.empty_like(order)
    index[order] = new.cumsum(0) - 1
    return order[new], index


def check_finite(what: str, value: Tensor | None) -> None:
    """Raise IllConditioned if ``value`` holds a number that is none."""
    if value is not None and not torch.isfinite(value.sum(dtype=torch.float64)):  # one is enough to spoil the sum
        raise IllConditioned(
            f"The {what} hold NaN or infinite values. The text encoder's weights are damaged "
            "or overflow in half precision; load an intact checkpoint or encode in float32."
        )


def _check_solution(found: Tensor) -> None:
    if not torch.isfinite(found).all():
        raise IllConditioned("The erasure has no finite solution. Raise the ridge ('lamb') or remove odd rows.")


def cholesky(matrix: Tensor, option: str = "lamb") -> Tensor:
    """Lower factor of a positive definite matrix; raises IllConditioned naming the ``option`` to raise."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        raise IllConditioned(
            "The rows to erase and to preserve are numerically dependent and the ridge is too small for them. "
            f"Raise the ridge (option '{option}')."
        )
    return factor

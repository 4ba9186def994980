"""SPEED's solve (arXiv 2503.07392) for given rows: which retained rows count, what they leave, and the edit in there.

The paper minimises ``|(W + X P) C - W A|^2 + rho |X P|^2`` subject to ``X P K = 0``; P projects on the null space of
the retained rows, K are the invariants. Substituting ``X P = W (A - C) Y`` gives a ridge solve for Y in which concept
rows are replaced by their part inside the subspace and the invariants, ``K P``, are preserved at weight ``1 / lamb``;
for ``lamb`` = 0 the subspace leaves them out instead (``tests/test_speed.py`` holds it against the official form).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..solver import EditProblem
from .subspace import captured, occupied, occupied_also, outside

CHUNK = 128  # copies that are judged against their common mean, as in the official code


@dataclass(frozen=True)
class Inside:
    """A problem whose concept rows are their parts inside a subspace, and what the subspace leaves out, R [d, r]."""

    problem: EditProblem
    basis: Tensor


@dataclass(frozen=True)
class NullSpaceEdit:
    """Concept rows beside what must not change. Row tensors are float64, one row a line.

    ``plain``: C -> A, their weights sharing out 1, with the ridge rho; ``retained`` [n, d]: distinct, in a fixed order;
    ``invariants`` K [q, d]; ``threshold``, ``filter_ridge``: absolute; ``lamb`` >= 0: slack of the invariants;
    ``keep_all``: no filter; ``copies`` of each retained row, drawn with ``seed``, or their expectation if it is
    None.
    """

    plain: EditProblem
    retained: Tensor
    invariants: Tensor
    threshold: float
    filter_ridge: float
    lamb: float = 0.0
    keep_all: bool = False
    copies: int = 10
    seed: int | None = None

    @property
    def judges(self) -> bool:
        """Whether the matrices have a say in which retained rows count."""
        return len(self.retained) > 0 and (not self.keep_all or self.copies > 0)

    def inside(self, gram: Tensor | None, weakest: Tensor | None, layer: int = 0) -> Inside:
        """The edit for matrices with ``gram = sum W^T W`` [d, d] and ``weakest`` direction [d] (None: no copies).

        ``gram`` may be None where nothing is judged by it. ``layer`` makes the draws of each matrix its own.
        """
        basis = occupied(*self.refined(gram, weakest, layer), self.threshold)
        rows, soft, weights = self.plain.rows, None, None
        if self.lamb == 0:
            basis = occupied_also(basis, self.invariants)
        else:
            soft = outside(basis, self.invariants)
            weights = torch.full((len(soft),), 1 / self.lamb, dtype=torch.float64)
        erase = outside(basis, rows.erase)
        anchors = erase + (rows.anchors - rows.erase)
        problem = EditProblem(
            erase, anchors, soft, self.plain.ridge, rows.omega, weights, rows.groups, self.plain.space
        )
        return Inside(problem, basis)

    def refined(self, gram: Tensor | None, weakest: Tensor | None, layer: int = 0) -> tuple[Tensor, Tensor]:
        """Retained rows that count, and their weights in the mean Gram matrix (paper, sections 3.2 and 3.3).

        Filter: those an unrestricted edit would shift at least as far as the mean. Augmentation: ``copies`` of each,
        ``c + xi v`` along the weakest direction v with normal xi, filtered once more. Their expectation: rows shifted
        at least as far as the mean of those kept get ``copies`` more weight, and v appears once for each such copy.
        """
        rows = self.retained
        if gram is None or not self.judges:
            return _alike(rows)
        if not self.keep_all:
            rows = rows[_far(self._shift(rows, gram))]
        if len(rows) == 0 or weakest is None or self.copies == 0:
            return _alike(rows)
        if self.seed is not None:
            return _alike(torch.cat([rows, self._drawn(rows, gram, weakest, self.seed + layer)]))
        far = _far(self._shift(rows, gram)).double()
        weights = torch.cat([1 + self.copies * far, self.copies * far.sum()[None]])
        return torch.cat([rows, weakest[None]]), weights / weights[:-1].sum()

    def _drawn(self, rows: Tensor, gram: Tensor, weakest: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randn(len(rows) * self.copies, generator=generator, dtype=torch.float64)
        copies = rows.repeat_interleave(self.copies, 0) + steps[:, None] * weakest
        return copies[torch.cat([_far(self._shift(part, gram)) for part in copies.split(CHUNK)])]

    def reach(self, inside: Inside) -> Tensor:
        """Share of each concept that lies inside the subspace, [concepts]."""
        rows = self.plain.rows
        return captured(inside.basis, rows.erase, rows.groups, int(rows.groups.max()) + 1)

    def _shift(self, rows: Tensor, gram: Tensor) -> Tensor:
        """How far an edit without any care moves the outputs of ``rows``, [n]."""
        up, down = self._careless
        inner = rows @ down.T
        return (inner @ (up.T @ gram @ up) * inner).sum(1).clamp_min(0).sqrt()

    @cached_property
    def _careless(self) -> tuple[Tensor, Tensor]:
        return replace(self.plain, ridge=self.filter_ridge).factors()


def _alike(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows, torch.full((len(rows),), 1 / max(1, len(rows)), dtype=torch.float64)


def _far(shift: Tensor) -> Tensor:
    return shift >= shift.mean() * (1 - 1e-12)  # the tolerance keeps equal shifts together

"""Any number of rows as a few d x d sums: all that a solve needs of them, whatever their number.

The map ``T = I + sum w (a - c) c^T G^-1`` with ``G = ridge I + sum w c c^T + sum w' p p^T`` (UCE, arXiv 2308.14761,
Eq. 7) knows its rows only through these sums. Thousands of prompts with all their rows would not fit into memory
otherwise: MACE's refinement of a thousand concepts has two million.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .gramian import PART, gram_of
from .solver import check_finite

_NUMBERS = 2**25  # of sums for anchors that are kept before they are multiplied
SAMPLE = 4096  # rows that are kept to say how far a map comes


class RowSums:
    """Sums over pairs of rows c -> a [d] with weights w, float64, and an evenly spaced sample of the pairs.

    ``old`` = sum w c c^T [d, d].
    """

    def __init__(self, width: int) -> None:
        self.old, self._cross = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self.count, self._weight, self._square, self._step = 0, 0.0, 0.0, 1
        self.sample: tuple[Tensor, ...] = ()
        self._targets = _Targets(width)

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of(cls, erase: Tensor, anchors: Tensor, weights: Tensor, groups: Tensor) -> RowSums:
        """Sums of rows that are at hand, see :meth:`add`."""
        made = cls(erase.shape[1])
        for start in range(0, len(erase), PART):
            part = slice(start, start + PART)
            made.add(erase[part], anchors[part], weights[part], groups[part])
        return made

    @property
    def cross(self) -> Tensor:
        """``sum w a c^T`` [d, d]."""
        self._cross += self._targets.taken()
        return self._cross

    @property
    def pull(self) -> Tensor:
        """``sum w (a - c) c^T`` [d, d]."""
        return self.cross - self.old

    @property
    def mean_weight(self) -> float:
        """Mean weight of a row."""
        return self._weight / self.count

    @property
    def mean_square(self) -> float:
        """Mean |row|^2 / width of the rows to erase."""
        return self._square / self.count / len(self.old)

    def add(self, erase: Tensor, anchors: Tensor, weights: Tensor, groups: Tensor, names: Tensor | None = None) -> None:
        """Pairs ``erase`` -> ``anchors`` [m, d] with ``weights`` [m] >= 0 and their concepts [m].

        ``names`` [m]: numbers, equal for equal anchors, also of other calls. Where many rows go to one anchor, as they
        do if every concept is to become the same thing, their sum alone has to be multiplied with it.
        """
        rows = erase.double()
        square = float(torch.linalg.vector_norm(rows)) ** 2
        check_finite("rows to erase", torch.tensor(square))
        check_finite("anchors", torch.linalg.vector_norm(anchors))
        self.old += gram_of(rows, weights)
        weighted = rows if bool((weights == 1).all()) else rows * weights[:, None]
        if names is None:
            self._cross += anchors.double().T @ weighted
        else:
            self._targets.add(names, anchors, weighted)
            if self._targets.full:
                self._cross += self._targets.taken()
        self._weight += float(weights.sum())
        self._square += square
        self._remember(erase, anchors, weights, groups)
        self.count += len(erase)

    def times(self, factor: float) -> RowSums:
        """The sums of rows that weigh ``factor`` times as much."""
        made = self._with(factor * self.old, factor * self.cross)
        made._weight = factor * self._weight
        if self.count:
            erase, anchors, weights, groups = self.sample
            made.sample = (erase, anchors, factor * weights, groups)
        return made

    def mapped(self, through: Tensor) -> RowSums:
        """The sums of the rows ``c @ through`` with the same anchors; ``through`` [d, d]."""
        made = self._with(through.T @ self.old @ through, self.cross @ through)
        made._square = self._square * float(made.old.trace() / self.old.trace())
        erase, *others = self.sample
        made.sample = (erase.double() @ through, *others)
        return made

    def _with(self, old: Tensor, cross: Tensor) -> RowSums:
        made = copy.copy(self)
        made.old, made._cross, made._targets = old, cross, _Targets(len(old))
        return made

    def _remember(self, *parts: Tensor) -> None:
        """Every ``_step``-th row counted over all that was added."""
        first = -self.count % self._step
        new = [part[first :: self._step].clone() for part in parts]
        before = self.sample or [part[:0] for part in new]
        self.sample = tuple(torch.cat(pair) for pair in zip(before, new, strict=True))
        while len(self.sample[0]) > SAMPLE:
            self.sample = tuple(part[::2].clone() for part in self.sample)
            self._step *= 2


class _Targets:
    """Distinct anchors a, and beside each the sum of all w c that go there; multiplied when there are many of them."""

    def __init__(self, width: int) -> None:
        self._width, self._most = width, max(1, _NUMBERS // width)
        self._clear()

    def _clear(self) -> None:
        self._places: dict[int, int] = {}
        self._anchors: list[Tensor] = []
        self._sums: list[Tensor] = []

    def add(self, names: Tensor, anchors: Tensor, weighted: Tensor) -> None:
        """Rows w c [m, d] on their way to ``anchors`` [m, d]."""
        distinct, index = torch.unique(names, return_inverse=True)
        first = torch.full((len(distinct),), len(names)).scatter_reduce(0, index, torch.arange(len(names)), "amin")
        sums = torch.zeros(len(distinct), self._width, dtype=torch.float64).index_add_(0, index, weighted)
        for name, target, total in zip(distinct.tolist(), anchors[first], sums, strict=True):
            place = self._places.setdefault(name, len(self._sums))
            if place < len(self._sums):
                self._sums[place] += total
            else:
                self._anchors.append(target.clone())
                self._sums.append(total.clone())

    @property
    def full(self) -> bool:
        """Whether it is time to multiply."""
        return len(self._sums) > self._most

    def taken(self) -> Tensor:
        """``sum a (sum w c)^T`` [d, d] of all that was added; it is forgotten here."""
        if not self._sums:
            return torch.zeros(self._width, self._width, dtype=torch.float64)
        total = torch.stack(self._anchors).double().T @ torch.stack(self._sums)
        self._clear()
        return total

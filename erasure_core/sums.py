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

SAMPLE = 4096  # rows that are kept to say how far a map comes


class RowSums:
    """Sums over pairs of rows c -> a [d] with weights w, float64, and an evenly spaced sample of the pairs.

    ``old`` = sum w c c^T and ``pull`` = sum w (a - c) c^T, both [d, d].
    """

    def __init__(self, width: int) -> None:
        self.old, self.pull = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self.count, self._weight, self._square, self._step = 0, 0.0, 0.0, 1
        self.sample: tuple[Tensor, ...] = ()

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
    def mean_weight(self) -> float:
        """Mean weight of a row."""
        return self._weight / self.count

    @property
    def mean_square(self) -> float:
        """Mean |row|^2 / width of the rows to erase."""
        return self._square / self.count / len(self.old)

    def add(self, erase: Tensor, anchors: Tensor, weights: Tensor, groups: Tensor) -> None:
        """Pairs ``erase`` -> ``anchors`` [m, d] with ``weights`` [m] >= 0 and their concepts [m]."""
        rows = erase.double()
        change = anchors.double() - rows
        square = float(torch.linalg.vector_norm(rows)) ** 2
        check_finite("rows to erase", torch.tensor(square))
        check_finite("anchors", torch.linalg.vector_norm(change))
        if (weights == weights[0]).all():  # then they can be left for the end
            self.old += float(weights[0]) * gram_of(rows)
            self.pull += float(weights[0]) * (change.T @ rows)
        else:
            self.old += gram_of(rows, weights)
            self.pull += (change * weights[:, None]).T @ rows
        self._weight += float(weights.sum())
        self._square += square
        self._remember(erase, anchors, weights, groups)
        self.count += len(erase)

    def times(self, factor: float) -> RowSums:
        """The sums of rows that weigh ``factor`` times as much."""
        made = copy.copy(self)
        made.old, made.pull, made._weight = factor * self.old, factor * self.pull, factor * self._weight
        if self.count:
            erase, anchors, weights, groups = self.sample
            made.sample = (erase, anchors, factor * weights, groups)
        return made

    def mapped(self, through: Tensor) -> RowSums:
        """The sums of the rows ``c @ through`` with the same anchors; ``through`` [d, d]."""
        made = copy.copy(self)
        made.old = through.T @ self.old @ through
        made.pull = (self.pull + self.old) @ through - made.old
        made._square = self._square * float(made.old.trace() / self.old.trace())
        erase, *others = self.sample
        made.sample = (erase.double() @ through, *others)
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

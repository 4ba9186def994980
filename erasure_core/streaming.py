"""Adding and removing concepts one at a time, exactly as if all had been solved together.

Recursive least squares: for a pair x -> y of weight w, ``g = w G^-1 x / (1 + w x^T G^-1 x)``,
``T <- T + (y - T x) g^T`` and ``G^-1 <- G^-1 - g (G^-1 x)^T``; y = x preserves a row, w < 0 takes a pair away again.
Independent of order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import BadInput, IllConditioned

REFACTOR = 64  # updates after which everything is solved afresh, so that rounding does not pile up
_SMALLEST = 1e-6  # of 1 + w x^T G^-1 x: below it, taking a pair away would leave nothing to solve


class Stream:
    """A map ``T`` [d, d] that pairs of rows are added to and removed from; float64 on the processor."""

    def __init__(self, width: int, ridge: float) -> None:
        if not ridge > 0:
            raise BadInput(f"The ridge must be above 0, not {ridge}.")
        self._ridge, self._width = ridge, width
        self._pairs: list[tuple[Tensor, Tensor, float]] = []
        self._since = 0
        self._solve_afresh()

    @property
    def matrix(self) -> Tensor:
        """``T`` as it is now."""
        return self._map.clone()

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, erase: Tensor, anchors: Tensor, weights: Tensor) -> None:
        """Rows ``erase`` -> ``anchors`` [m, d] with ``weights`` [m] > 0; equal rows and anchors are preserved rows."""
        for x, y, w in zip(erase.double(), anchors.double(), weights.double().tolist(), strict=True):
            if not w > 0:
                raise BadInput(f"The weight of a row must be above 0, not {w:g}.")
            self._pairs.append((x, y, w))
            self._update(x, y, w)

    def remove(self, erase: Tensor, anchors: Tensor, weights: Tensor) -> None:
        """Take away rows that were added with the same anchors and weights. Raises BadInput for any that were not."""
        for x, y, w in zip(erase.double(), anchors.double(), weights.double().tolist(), strict=True):
            place = next((i for i, known in enumerate(self._pairs) if _same(known, x, y, w)), None)
            if place is None:
                raise BadInput("A row that is to be removed was never added with this anchor and weight.")
            del self._pairs[place]
            self._update(x, y, -w)

    def _update(self, x: Tensor, y: Tensor, w: float) -> None:
        self._since += 1
        solved = self._inverse @ x
        scale = 1 + w * float(x @ solved)
        if self._since >= REFACTOR or scale < _SMALLEST:
            self._solve_afresh()
            return
        g = (w / scale) * solved
        self._map += torch.outer(y - self._map @ x, g)
        self._inverse -= torch.outer(g, solved)

    def _solve_afresh(self) -> None:
        eye = torch.eye(self._width, dtype=torch.float64)
        gram = self._ridge * eye
        pull = torch.zeros_like(eye)
        if self._pairs:
            rows, targets = torch.stack([x for x, _, _ in self._pairs]), torch.stack([y for _, y, _ in self._pairs])
            weighted = rows * torch.tensor([w for _, _, w in self._pairs], dtype=torch.float64)[:, None]
            gram = gram + weighted.T @ rows
            pull = (targets - rows).T @ weighted
        self._inverse = torch.linalg.inv(gram)
        if not torch.isfinite(self._inverse).all():
            raise IllConditioned("The rows cannot be solved with this ridge. Raise it.")
        self._map = eye + pull @ self._inverse
        self._since = 0


def _same(known: tuple[Tensor, Tensor, float], x: Tensor, y: Tensor, w: float) -> bool:
    return known[2] == w and torch.equal(known[0], x) and torch.equal(known[1], y)

"""Adding and removing concepts one at a time, exactly as if all had been solved together.

Recursive least squares for k rows at once: for pairs X -> Y [k, d] of weights W, ``K = G^-1 X^T`` and
``N = (W^-1 + X K)^-1``, ``T <- T + (Y - X T^T)^T N K^T`` and ``G^-1 <- G^-1 - K N K^T``; Y = X preserves rows, negative
weights take pairs away again. Independent of order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import BadInput, IllConditioned
from .gramian import gram_of
from .solver import cholesky

REFACTOR = 64  # updates after which everything is solved afresh, so that rounding does not pile up
_SMALLEST = 1e-6  # of 1 - w x^T G^-1 x: below it, taking a pair away would leave nothing to solve
_AT_ONCE = 4  # more than a quarter of d rows at once are cheaper to solve afresh


@dataclass(frozen=True)
class _Pair:
    """A row, where it goes, its weight, and how often it was added."""

    row: Tensor
    target: Tensor
    weight: float
    times: int = 1


class Stream:
    """A map ``T`` [d, d] that pairs of rows are added to and removed from; float64 on the processor."""

    def __init__(self, width: int, ridge: float) -> None:
        if not ridge > 0:
            raise BadInput(f"The ridge must be above 0, not {ridge}.")
        self._ridge, self._width = ridge, width
        self._pairs: dict[bytes, _Pair] = {}
        self._since = 0
        self._solve_afresh()

    @property
    def matrix(self) -> Tensor:
        """``T`` as it is now."""
        return self._map.clone()

    def __len__(self) -> int:
        return sum(pair.times for pair in self._pairs.values())

    def add(self, erase: Tensor, anchors: Tensor, weights: Tensor) -> None:
        """Rows ``erase`` -> ``anchors`` [m, d] with ``weights`` [m] > 0; equal rows and anchors are preserved rows."""
        found = _pairs(erase, anchors, weights)
        for _, pair in found:
            if not pair.weight > 0:
                raise BadInput(f"The weight of a row must be above 0, not {pair.weight:g}.")
        for key, pair in found:
            known = self._pairs.get(key)
            self._pairs[key] = pair if known is None else replace(known, times=known.times + 1)
        self._update(erase, anchors, weights)

    def remove(self, erase: Tensor, anchors: Tensor, weights: Tensor) -> None:
        """Take away rows that were added with the same anchors and weights. Raises BadInput for any that were not."""
        left = dict(self._pairs)
        for key, _ in _pairs(erase, anchors, weights):
            known = left.get(key)
            if known is None:
                raise BadInput("A row that is to be removed was never added with this anchor and weight.")
            if known.times == 1:
                del left[key]
            else:
                left[key] = replace(known, times=known.times - 1)
        self._pairs = left
        self._update(erase, anchors, -weights)

    def _update(self, erase: Tensor, anchors: Tensor, weights: Tensor) -> None:
        x, y, w = erase.double(), anchors.double(), weights.double()
        self._since += 1
        if self._since >= REFACTOR or _AT_ONCE * len(x) > self._width:
            self._solve_afresh()
            return
        solved = x @ self._inverse
        inner = solved @ x.T
        scale = w.abs().sqrt()
        if (w < 0).any() and _least(inner * scale[:, None] * scale) < _SMALLEST:
            self._solve_afresh()
            return
        inner.diagonal().add_(1 / w)
        gain = torch.linalg.solve(inner, solved)
        self._map.addmm_((y - x @ self._map.T).T, gain)
        self._inverse.addmm_(solved.T, gain, alpha=-1)

    def _solve_afresh(self) -> None:
        eye = torch.eye(self._width, dtype=torch.float64)
        gram, pull = self._ridge * eye, torch.zeros_like(eye)
        pairs = self._pairs.values()
        if pairs:
            rows, targets = torch.stack([p.row for p in pairs]), torch.stack([p.target for p in pairs])
            weights = torch.tensor([p.weight * p.times for p in pairs], dtype=torch.float64)
            gram = gram + gram_of(rows, weights)
            pull = ((targets - rows) * weights[:, None]).T @ rows
        self._inverse = torch.cholesky_inverse(cholesky(gram))
        if not torch.isfinite(self._inverse).all():
            raise IllConditioned("The rows cannot be solved with this ridge. Raise it.")
        self._map = eye + pull @ self._inverse
        self._since = 0


def _pairs(erase: Tensor, anchors: Tensor, weights: Tensor) -> list[tuple[bytes, _Pair]]:
    """Each pair under a key that is equal for equal pairs."""
    found = []
    for x, y, w in zip(erase.double() + 0.0, anchors.double() + 0.0, weights.double().tolist(), strict=True):
        digest = hashlib.blake2b(x.numpy().tobytes() + y.numpy().tobytes() + repr(w).encode()).digest()
        found.append((digest, _Pair(x.clone(), y.clone(), w)))
    return found


def _least(shares: Tensor) -> float:
    """Smallest eigenvalue of ``I - shares``: how much would be left to divide by."""
    return float(1 - torch.linalg.eigvalsh(shares)[-1])

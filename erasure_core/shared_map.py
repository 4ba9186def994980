"""Changed cross-attention weights back into the one map they came from: ``W'_l = W_l T`` for every matrix l.

Every closed-form edit with replaced targets has that form (UCE, arXiv 2308.14761, Eq. 7; the same for RECE 2407.12383,
MACE 2403.06135 Eq. 4, TRCE 2503.07389), so ``X = T - I`` is the least-squares solution of the stacked equations
``W_l X = Delta_l``: ``S X = sum_l W_l^T Delta_l`` with ``S = sum_l W_l^T W_l``. Only these two d x d sums are kept, in
float64, so that matrices can be read one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .compression import compress
from .erasure import MapFactor
from .gramian import gram_of

ENOUGH = 2  # equations per unknown, below which any change at all would look like a map
_SINGULAR = 1e-12  # of the largest eigenvalue of S: directions that no matrix reads
_ROUNDING = 4.0  # times the misfit's energy: rounding that all matrices share
_EXACT = 1e-12  # share of the change's energy that float32 factors cannot hold anyway


@dataclass(frozen=True)
class Fit:
    """The best map ``I + up @ down``, and how far it is from the changes.

    ``residual``: ``sqrt(sum |Delta_l - W_l X|^2 / sum |Delta_l|^2)``, all numbers over all matrices, for the terms
    kept; ``misfit``: the same for all terms. ``norm``: largest singular value of X.
    """

    factor: MapFactor
    residual: float
    misfit: float
    norm: float


class SharedMap:
    """Sums over matrices, from which the best map follows; sums of two sets of matrices can be added."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.energy = 0.0
        self._gram = torch.zeros(width, width, dtype=torch.float64)
        self._cross = torch.zeros(width, width, dtype=torch.float64)

    def add(self, weight: Tensor, change: Tensor) -> None:
        """One matrix [o, d] and its change, float64."""
        self.rows += len(weight)
        self.energy += float(change.square().sum())
        self._gram += gram_of(weight)
        self._cross += weight.T @ change

    def __add__(self, other: SharedMap) -> SharedMap:
        both = SharedMap(len(self._gram))
        both.rows, both.energy = self.rows + other.rows, self.energy + other.energy
        both._gram, both._cross = self._gram + other._gram, self._cross + other._cross
        return both

    @property
    def determined(self) -> bool:
        """Whether there are enough equations for a good fit to mean anything."""
        return self.rows >= ENOUGH * len(self._gram) and self.energy > 0

    def solve(self, rank: int | None = None) -> Fit:
        """The best map; of as many terms as stand out of the misfit, or of at most ``rank``.

        With ``S = Q L Q^T`` the columns of ``Z = L^-1/2 Q^T sum W^T Delta`` are the fitted outputs in an orthonormal
        basis, and ``X = Q L^-1/2 Z``: S is never inverted, directions it does not reveal are left alone, and the
        singular values of Z are those of all outputs together, by which terms are kept (Eckart-Young). The misfit of a
        true map is the rounding of the program that made the file. Part of that rounding (of the inverse that all
        matrices shared) looks like a map, too, and would cost dozens of terms: four times the misfit's energy may be
        left out, which gives the true rank and a map closer to the true one in every case measured.
        """
        width = len(self._gram)
        values, vectors = torch.linalg.eigh(self._gram)
        seen = values > _SINGULAR * values.max()
        basis = vectors[:, seen] / values[seen].sqrt()
        outputs = basis.T @ self._cross
        explained = float(outputs.square().sum())
        misfit = max(self.energy - explained, 0.0) / self.energy
        unit = torch.eye(width, dtype=torch.float64)
        mix, down = compress(unit, outputs.T @ outputs, max(_EXACT, _ROUNDING * misfit), rank)
        up = basis @ (outputs @ mix)
        kept = float((outputs @ mix).square().sum())
        residual = (max(self.energy - kept, 0.0) / self.energy) ** 0.5
        norm = float(torch.linalg.matrix_norm(up, 2))  # the rows of down are orthonormal
        return Fit(MapFactor(down.float().contiguous(), up.float().contiguous()), residual, misfit**0.5, norm)

"""What is preserved, factored once; each erasure on top of it is a small update.

``G = G0 + C Omega C^T`` with ``G0 = ridge I + P Omega' P^T`` known and factored: by Woodbury's identity
``Y = (Omega^-1 + C^T G0^-1 C)^-1 (G0^-1 C)^T``, one solve with the known factor and one of the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .erasure import EmbeddingMap, MapFactor
from .errors import BadInput, IllConditioned
from .gramian import gram_of
from .solver import cholesky


@dataclass(frozen=True)
class Prepared:
    """Preserved rows ``preserve`` [p, d] with weights [p] and a ridge > 0, for any number of erasures of one space."""

    preserve: Tensor
    weights: Tensor
    ridge: float
    space: str = ""

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise BadInput(f"The ridge must be above 0 to solve on top of what is preserved, not {self.ridge}.")

    @cached_property
    def factor(self) -> Tensor:
        """Cholesky factor of ``G0`` [d, d], float64; made at the first use."""
        kept = gram_of(self.preserve.double(), self.weights.double())
        kept.diagonal().add_(self.ridge)
        return cholesky(kept)

    def factors(self, erase: Tensor, anchors: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
        """``D`` [d, m] and ``Y`` [m, d] for rows ``erase`` -> ``anchors`` [m, d] with weights ``omega`` [m] > 0."""
        rows = erase.double()
        solved = torch.cholesky_solve(rows.T, self.factor)
        small = rows @ solved
        small.diagonal().add_(1 / omega.double())
        y = torch.cholesky_solve(solved.T, cholesky(small))
        if not torch.isfinite(y).all():
            raise IllConditioned("The erasure has no finite solution. Raise the ridge or remove odd rows.")
        return (anchors.double() - rows).T, y

    def solve(self, erase: Tensor, anchors: Tensor, omega: Tensor) -> EmbeddingMap:
        """The map in float32."""
        d, y = self.factors(erase, anchors, omega)
        return EmbeddingMap(self.space, (MapFactor(y.float().contiguous(), d.float().contiguous()),))

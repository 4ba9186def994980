"""Large differences of weights in low-rank form, quickly: the strongest directions found by random sketches.

N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness" (arXiv 0909.4061), Algorithms 4.4 and 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..compression import low_rank
from ..erasure import WeightDelta

RANK, MAX_RANK = 64, 256  # terms of one matrix at most: of a large file, and of a small one
BUDGET = 64_000_000  # numbers in all factors together, 128 MB in float16; RANK terms are kept whatever they cost
ENERGY_ERROR = 1e-3  # share of a change's energy that may be left out: 3 % of its length
_OVERSAMPLED, _ROUNDS = 16, 2
_EXACT_BELOW = 4  # sketches pay off where the shorter side is longer than this times their width


def rank_for(shapes: Iterable[tuple[int, ...]]) -> int:
    """Terms of one matrix at most, for files of matrices of these ``shapes`` [o, i, ...]."""
    sides = sum(shape[0] + torch.Size(shape[1:]).numel() for shape in shapes if len(shape) > 1)
    return max(RANK, min(MAX_RANK, BUDGET // max(sides, 1)))


def compact(name: str, change: Tensor, rank: int, error: float = ENERGY_ERROR) -> tuple[WeightDelta, float]:
    """A delta of at most ``rank`` terms in float16, and the share of the energy of ``change`` that it misses.

    ``change`` [o, i], [o, i, kh, kw] or [n], any float dtype. As few terms as miss at most ``error``; what is missed is
    measured on what is stored, rounding included. Vectors are kept whole, in float32.
    """
    if change.dim() < 2:
        return WeightDelta(name, diff=change.float()), 0.0
    matrix = change.flatten(1).float()
    if min(matrix.shape) <= _EXACT_BELOW * (rank + _OVERSAMPLED):
        found, _ = low_rank(name, matrix, error, at_most=rank)
        up, down = found.up, found.down
        assert up is not None and down is not None
    else:
        up, down = _sketched(matrix, rank, error)
    up, down = _balanced(up, down)
    kernel = change.shape[2:]
    delta = WeightDelta(
        name,
        down=down.half().reshape(len(down), change.shape[1], *kernel).contiguous(),
        up=up.half().reshape(len(change), len(down), *(1 for _ in kernel)).contiguous(),
    )
    energy = float(matrix.double().square().sum())
    return delta, float((matrix - delta.dense().flatten(1)).double().square().sum()) / energy if energy else 0.0


def _sketched(matrix: Tensor, rank: int, error: float) -> tuple[Tensor, Tensor]:
    """``up`` [o, k], ``down`` [k, i] of the strongest k <= ``rank`` directions of ``matrix``; the same every time."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], rank + _OVERSAMPLED, generator=generator)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, vt = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    total = float(matrix.double().square().sum())
    lost = total - s.double().square().cumsum(0)
    keep = min(int((lost > error * total).sum()) + 1, rank, len(s))
    return (basis @ u[:, :keep]) * s[:keep], vt[:keep]


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with both factors of each term of equal length, so that float16 holds either."""
    size = (up.norm(dim=0) / down.norm(dim=1).clamp_min(1e-30)).clamp_min(1e-30).sqrt()
    return up / size, down * size[:, None]

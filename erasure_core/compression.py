"""Lowering the rank of an embedding map, judged by what the model's weights make of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import WrongFamily

ENERGY_ERROR = 1e-4
_METRICS: OrderedDict[str, Tensor] = OrderedDict()  # S by content of the weights
_METRICS_KEPT = 3  # 2048 x 2048 in float64 are 34 MB


def output_gram(weights: Mapping[str, Tensor], names: list[str], up: Tensor) -> Tensor:
    """``up^T S up`` [m, m] in float64, ``S = sum_l W_l^T W_l`` over the named matrices' first ``len(up)`` columns.

    ``up`` [d, m]. Entry i, j is how alike the outputs of terms i and j are over all matrices together.
    """
    width, rank = up.shape
    through = up.double() if rank < width else torch.eye(width, dtype=torch.float64)
    total = torch.zeros(through.shape[1], through.shape[1], dtype=torch.float64)
    for name in names:
        matrix = weights[name].double()
        if matrix.shape[1] < width:
            raise WrongFamily(f"{name} reads {matrix.shape[1]} numbers, the text space has {width}.")
        outputs = matrix[:, :width] @ through
        total += outputs.T @ outputs
    return total if rank < width else up.double().T @ total @ up.double()


def output_metric(weights: Mapping[str, Tensor], names: list[str], width: int) -> Tensor:
    """``S = sum_l W_l^T W_l`` [width, width] in float64, kept for the next call with the same weights.

    How far apart two texts are for all matrices together: |x|_S^2 = sum_l |W_l x|^2. For SDXL it takes a minute to add
    up and a second to recognise.
    """
    digest = hashlib.blake2b(f"{width} {names}".encode())
    for name in names:
        digest.update(weights[name].float().contiguous().numpy().tobytes())
    key = digest.hexdigest()
    if key not in _METRICS:
        _METRICS[key] = output_gram(weights, names, torch.eye(width, dtype=torch.float64))
    _METRICS.move_to_end(key)
    while len(_METRICS) > _METRICS_KEPT:
        _METRICS.popitem(last=False)
    return _METRICS[key].clone()


def compress(down: Tensor, gram: Tensor, error: float = ENERGY_ERROR) -> tuple[Tensor, Tensor]:
    """Fewest rank-one terms that lose at most a share ``error`` of ``tr(X^T S X)``, X = ``up @ down``.

    ``down`` [m, d] and ``gram = up^T S up`` [m, m], float64. Returns ``mix`` [m, k] and ``small_down`` [k, d]: the
    smaller pair is ``up @ mix`` and ``small_down``. With ``S = sum W^T W`` the truncation is the best one for the
    outputs of all matrices at once (Eckart-Young in the metric S): X is projected on its strongest right directions.
    """
    inner = torch.linalg.qr(down.T)
    energy, vectors = torch.linalg.eigh(inner.R @ gram @ inner.R.T)
    energy, vectors = energy.flip(0).clamp_min(0), vectors.flip(1)
    lost = 1 - energy.cumsum(0) / energy.sum().clamp_min(1e-300)
    keep = min(int((lost > error).sum()) + 1, len(energy))
    small_down = (inner.Q @ vectors[:, :keep]).T
    # one sign per term, so that equal maps give equal files
    sign = torch.where(small_down.sum(1) < 0, -1.0, 1.0).to(down)
    return inner.R.T @ vectors[:, :keep] * sign, small_down * sign[:, None]


def energy_error(down: Tensor, gram: Tensor, mix: Tensor, small_down: Tensor) -> float:
    """Share of ``tr(X^T S X)`` that the smaller pair misses of X = ``up @ down``; arguments as in :func:`compress`."""
    rest = down - mix @ small_down
    total = (down * (gram @ down)).sum()
    return float((rest * (gram @ rest)).sum() / total) if total > 0 else 0.0

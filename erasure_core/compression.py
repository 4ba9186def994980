"""Lowering the rank of an embedding map, judged by what the model's weights make of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import WrongFamily

ENERGY_ERROR = 1e-4


def weight_metric(weights: Mapping[str, Tensor], names: list[str], width: int) -> Tensor:
    """``S = sum_l W_l^T W_l`` [width, width] in float64 over the named matrices (their first ``width`` columns)."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for name in names:
        matrix = weights[name].double()
        if matrix.shape[1] < width:
            raise WrongFamily(f"{name} reads {matrix.shape[1]} numbers, the text space has {width}.")
        total += matrix[:, :width].T @ matrix[:, :width]
    return total


def compress(down: Tensor, up: Tensor, metric: Tensor, error: float = ENERGY_ERROR) -> tuple[Tensor, Tensor]:
    """Fewest rank-one terms that lose at most a share ``error`` of ``tr(X^T S X)``, X = ``up @ down``.

    ``down`` [m, d], ``up`` [d, m], ``metric`` S [d, d], float64. With ``S = sum W^T W`` the truncation is the best one
    for the outputs of all matrices at once (Eckart-Young in the metric S).
    """
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp_min(values.max() * 1e-12)
    root = vectors * values.sqrt() @ vectors.T
    unroot = vectors * values.rsqrt() @ vectors.T
    inner = torch.linalg.qr(down.T)
    left, singular, right = torch.linalg.svd(root @ up @ inner.R.T, full_matrices=False)
    energy = singular.square()
    lost = 1 - energy.cumsum(0) / energy.sum().clamp_min(1e-300)
    keep = min(int((lost > error).sum()) + 1, len(singular))
    # one sign per term, so that equal maps give equal files
    sign = torch.where(right[:keep].sum(1, keepdim=True) < 0, -1.0, 1.0)
    return sign * (right[:keep] @ inner.Q.T), unroot @ (left[:, :keep] * singular[:keep]) * sign.T


def energy_error(down: Tensor, up: Tensor, small_down: Tensor, small_up: Tensor, metric: Tensor) -> float:
    """Share of ``tr(X^T S X)`` that the smaller pair misses of the larger one."""
    whole = up @ down
    rest = whole - small_up @ small_down
    total = (whole * (metric @ whole)).sum()
    return float((rest * (metric @ rest)).sum() / total) if total > 0 else 0.0

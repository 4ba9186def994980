"""Sums of outer products, what almost all the time of a solve with many rows goes into."""

from __future__ import annotations

import torch
from torch import Tensor

_FEW = 32  # fewer rows than this are multiplied before numpy has mirrored its half
PART = 8192  # rows that are handled together, so that what is made of them stays small


def gram_of(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum w x x^T`` [d, d] in float64 over ``rows`` [n, d] of any float dtype; ``weights`` [n] >= 0, 1 if not given.

    numpy hands a matrix times its own transpose to the symmetric product of the linear algebra library, which is half
    the work of a general one.
    """
    total = _part(rows[:PART], weights if weights is None else weights[:PART])
    for start in range(PART, len(rows), PART):
        stop = start + PART
        total += _part(rows[start:stop], weights if weights is None else weights[start:stop])
    return total


def _part(rows: Tensor, weights: Tensor | None) -> Tensor:
    scaled = rows.detach().to("cpu", torch.float64)
    if weights is not None:
        scaled = scaled * weights.sqrt()[:, None]
    if len(rows) < _FEW:
        return scaled.T @ scaled
    array = scaled.numpy()
    return torch.from_numpy(array.T @ array)

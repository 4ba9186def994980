"""Sums of outer products, what almost all the time of a solve with many rows goes into."""

from __future__ import annotations

import torch
from torch import Tensor


def gram_of(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum w x x^T`` [d, d] over ``rows`` [n, d], symmetric to the last bit; ``weights`` [n] >= 0, 1 if not given.

    In the rows' dtype, on the processor. numpy hands a matrix times its own transpose to the symmetric product of the
    linear algebra library, which is half the work of a general one.
    """
    scaled = rows if weights is None else rows * weights.sqrt()[:, None]
    array = scaled.detach().cpu().numpy()
    return torch.from_numpy(array.T @ array)

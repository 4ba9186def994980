"""Sums of outer products, what almost all the time of a solve with many rows goes into."""

from __future__ import annotations

import torch
from torch import Tensor

PART = 8192  # rows that are handled together, so that what is made of them stays small


def gram_of(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """``sum w x x^T`` [d, d] over ``rows`` [n, d], symmetric to the last bit; ``weights`` [n] >= 0, 1 if not given.

    In the rows' dtype, on the processor. numpy hands a matrix times its own transpose to the symmetric product of the
    linear algebra library, which is half the work of a general one.
    """
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype)
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART].detach().cpu()
        if weights is not None:
            part = part * weights[start : start + PART, None].sqrt()
        array = part.numpy()
        total += torch.from_numpy(array.T @ array)
    return total

"""How different two pictures look, without any image encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import BadInput

GRID = 64


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Root-mean-square difference [B] of pictures [B, 3, H, W] in 0..1, after averaging to at most 64 x 64 cells.

    The averaging makes the figure comparable between sizes and blind to grain, while layout, colour and shape count
    in full; structural similarity over several scales would need pictures of at least 160 pixels. 0 = equal
    pictures, 1 = black against white.
    """
    if first.shape != second.shape or first.ndim != 4:
        raise BadInput(f"Pictures to compare must have one size; got {tuple(first.shape)} and {tuple(second.shape)}.")
    difference = _cells(first) - _cells(second)
    return difference.square().mean(dim=(1, 2, 3)).sqrt()


def _cells(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    grid = (min(height, GRID), min(width, GRID))
    return adaptive_avg_pool2d(pictures.to(torch.float64), grid)

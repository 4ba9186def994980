"""Shapes of attention: heads apart and together, one plain attention, and the attention a text gets altogether."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

KeyValue = tuple[Tensor, Tensor]
"""Keys and values [B, heads, L, d] of one text."""


def apart(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads d] -> [B, heads, T, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    """[B, heads, T, d] -> [B, T, heads d]."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V`` [B, heads, T, d], float32 at least."""
    return wide(scaled_dot_product_attention(q, k, v))


def mass(q: Tensor, k: Tensor) -> Tensor:
    """Log-sum-exp of the logits [B, heads, T, 1]: how much attention a text would take among several."""
    return torch.logsumexp(wide(q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5, dim=-1, keepdim=True)


def wide(x: Tensor) -> Tensor:
    """In float32 at least: norms, exponents and differences of half precision are too coarse."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()

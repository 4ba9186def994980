"""Hashes of tensors: equal numbers, equal digits; and an order of things that is the same however they were given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def tensor_digest(tensor: Tensor | None) -> str:
    """SHA-256 over type, shape and content; empty for None."""
    if tensor is None:
        return ""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def fixed_order(things: Sequence[Sequence[Tensor | None]]) -> list[int]:
    """Places of ``things`` sorted by their contents, so that sums over them round alike in whatever order they came."""
    keys = [[tensor_digest(tensor) for tensor in tensors] for tensors in things]
    return sorted(range(len(things)), key=keys.__getitem__)

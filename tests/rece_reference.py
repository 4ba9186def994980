"""RECE as its scripts do it, in per-layer loops over all matrices, float64; imports nothing of the core."""

import torch
import uce_reference


def derived(edited, original, rows, reg, variant="regzero", item="1st", guide=None):
    """Texts that the ``edited`` matrices (a list) read as the ``original`` ones read ``rows`` [n, d]."""
    d = rows.shape[1]
    left, cross = torch.zeros(d, d, dtype=rows.dtype), torch.zeros(d, d, dtype=rows.dtype)
    if variant != "surrogatereg" or item in ("2nd", "both"):
        left = left + reg * torch.eye(d, dtype=rows.dtype)
    if variant == "surrogatereg" and item in ("2nd", "both"):
        cross = cross + reg * torch.eye(d, dtype=rows.dtype)
    for now, before in zip(edited, original, strict=True):
        factor = reg if variant == "surrogatereg" and item in ("1st", "both") else 0.0
        left = left + (1 + factor) * now.T @ now
        cross = cross + now.T @ before + factor * now.T @ now
    wanted = rows @ cross.T
    if variant == "standardreg":
        wanted = wanted + reg * guide
    return wanted @ torch.linalg.inv(left).T


def rounds(weights, start, pairs, kept, epochs, reg, lamb=0.1, preserve_scale=0.1, dtype=torch.float64, **variant):
    """Name -> matrix after all epochs; ``start`` name -> matrix, ``pairs`` of sequences, ``kept`` rows."""
    names = list(weights)
    original = [weights[name].to(dtype) for name in names]
    current = [start[name].to(dtype) for name in names]
    for _ in range(epochs):
        found = [(derived(current, original, c.to(dtype), reg, guide=a.to(dtype), **variant), a) for c, a in pairs]
        current = [
            uce_reference.edit(w, found, kept, lamb=lamb, preserve_scale=preserve_scale, dtype=dtype) for w in current
        ]
    return dict(zip(names, current, strict=True))

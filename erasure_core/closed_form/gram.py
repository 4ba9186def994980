"""Gram matrices of many captions: what a solve needs to know of them, in d x d numbers whatever their count."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..embeddings import select_rows
from ..erasure import POOLED_SPACE
from ..gramian import gram_of
from ..models import EditableModel
from ..probe import PROMPTS

BATCH = 256
_KEPT = 4
_CACHE: OrderedDict[str, Tensor] = OrderedDict()


def caption_gram(model: EditableModel, space: str, captions: Sequence[str], selector: str = "ALL77") -> Tensor:
    """``sum e e^T`` [d, d] in float64 over the captions' rows, added up in batches; each distinct caption counts once.

    MACE (arXiv 2403.06135) keeps such a sum per matrix, with its outputs beside it; one sum serves all of them. It is
    kept for the next call with the same captions and the same text encoder.
    """
    chosen = "POOLED" if space == POOLED_SPACE else selector
    texts = sorted(set(captions))
    digest = hashlib.blake2b(repr((space, chosen, texts)).encode())
    digest.update(select_rows(model, PROMPTS, chosen).float().contiguous().numpy().tobytes())  # which encoder
    key = digest.hexdigest()
    if key not in _CACHE:
        total = torch.zeros(model.spaces[space], model.spaces[space], dtype=torch.float64)
        for start in range(0, len(texts), BATCH):
            rows = select_rows(model, texts[start : start + BATCH], chosen).double()
            total += gram_of(rows)
        _CACHE[key] = total
    _CACHE.move_to_end(key)
    while len(_CACHE) > _KEPT:
        _CACHE.popitem(last=False)
    return _CACHE[key].clone()

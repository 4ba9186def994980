"""The neighbourhood of a row of text: as an expectation over directions, and as words of a list."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..concepts import Concept
from ..embeddings import select_rows
from ..models import EditableModel


def moments(low: float, high: float) -> tuple[float, float]:
    """Mean of cos t and of cos^2 t for a cosine that is uniform in [low, high]."""
    return (low + high) / 2, (low * low + low * high + high * high) / 3


def around(row: Tensor, along: float, across: float) -> Tensor:
    """Rows [d, d] whose outer products add up to ``|row|^2 (along e e^T + across (I - e e^T) / (d - 1))``.

    e is the direction of ``row`` [d]; the first of them lies along it, the others at right angles.
    """
    width = len(row)
    basis = torch.linalg.qr(torch.cat([row[:, None], torch.eye(width, dtype=row.dtype)[:, : width - 1]], dim=1)).Q
    scale = torch.full((width,), (across / (width - 1)) ** 0.5, dtype=row.dtype)
    scale[0] = along**0.5
    return (basis * scale).T * row.norm()


def nearest_words(
    model: EditableModel, concepts: Sequence[Concept], words: Sequence[str], low: float, count: int
) -> list[list[str]]:
    """Up to ``count`` of ``words`` for each concept, nearest first: by their last token's row, cosine at least ``low``.

    The mean of all rows is taken off first: what every text has in common would make any two words alike.
    """
    candidates = sorted(set(words))
    if not candidates or count == 0:
        return [[] for _ in concepts]
    rows = select_rows(model, candidates, "LAST").double()
    middle = rows.mean(0)
    found = []
    for concept in concepts:
        own = normalize(select_rows(model, concept.phrases, "LAST").double() - middle, dim=1)
        nearness = (normalize(rows - middle, dim=1) @ own.T).amax(1)
        best = torch.argsort(nearness, descending=True, stable=True)[:count].tolist()
        found.append([candidates[i] for i in best if nearness[i] >= low])
    return found

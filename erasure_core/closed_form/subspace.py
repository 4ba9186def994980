"""Directions of the text space that an edit may read without touching what is kept (SPEED, arXiv 2503.07392).

A subspace is written down by an orthonormal basis R [d, r] of what it leaves out: the projector on it is ``I - R R^T``.
That is smaller than a basis of the subspace itself, and what is kept is usually few. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import IllConditioned
from ..gramian import gram_of

LEAST_CAPTURED = 0.01
_NUMERICAL = 1e-9  # relative length below which a direction counts as left out already
_ROUNDS = 100


def occupied(rows: Tensor, weights: Tensor, threshold: float) -> Tensor:
    """Basis R [d, r] of the directions that ``rows`` [n, d] occupy: the complement of the paper's null space.

    Eigenvectors of ``sum w c c^T`` with an eigenvalue of at least ``threshold`` (paper, section 3.1); with weights that
    share out 1 that is the mean Gram matrix.
    """
    scaled = rows * weights.sqrt()[:, None]
    if len(rows) >= rows.shape[1]:
        values, vectors = torch.linalg.eigh(gram_of(scaled))
        return vectors[:, values >= threshold]
    values, mixes = torch.linalg.eigh(gram_of(scaled.T))  # the same eigenvalues from the smaller Gram matrix
    large = values >= max(threshold, 1e-12 * float(values.max()) if len(values) else 0.0)
    return torch.linalg.qr(scaled.T @ (mixes[:, large] / values[large].sqrt())).Q


def outside(basis: Tensor, rows: Tensor) -> Tensor:
    """``rows`` [n, d] without their part along ``basis`` [d, r]; done twice, so that nothing of it is left."""
    for _ in range(2):
        rows = rows - (rows @ basis) @ basis.T
    return rows


def occupied_also(basis: Tensor, rows: Tensor) -> Tensor:
    """``basis`` and what ``rows`` [q, d] add to it: an edit outside of it leaves them exactly alone, too."""
    left, lengths, _ = torch.linalg.svd(outside(basis, rows).T, full_matrices=False)
    return torch.cat([basis, left[:, lengths > _NUMERICAL * rows.norm(dim=1).amax()]], dim=1)


def captured(basis: Tensor, rows: Tensor, groups: Tensor, count: int) -> Tensor:
    """Share of each concept's energy outside of ``basis``, [count]: what of it an edit can reach at all."""
    energy = torch.stack([outside(basis, rows).square().sum(1), rows.square().sum(1)])
    inside, whole = torch.zeros(2, count, dtype=torch.float64).index_add_(1, groups, energy)
    return inside / whole.clamp_min(1e-300)


def check_feasible(shares: Tensor, dimensions: int, names: Sequence[str]) -> None:
    """Raise IllConditioned if less than a hundredth of a concept can be reached."""
    worst = int(shares.argmin())
    if float(shares[worst]) < LEAST_CAPTURED:
        raise IllConditioned(
            f"'{names[worst]}' cannot be erased beside what is to be preserved: only {float(shares[worst]):.2%} of it "
            f"lies outside (null space of {dimensions} dimensions). Preserve fewer "
            "phrases, or set disable_filter=no or a higher 'threshold'."
        )


def cluster_centres(rows: Tensor, count: int) -> Tensor:
    """Centres [count, d] of ``rows`` [n, d] by Lloyd's iteration without chance.

    The first centre starts at the row farthest from the mean, each next one at the row farthest from those before.
    """
    distinct = torch.unique(rows, dim=0)
    count = min(count, len(distinct))
    if count == 0:
        return distinct[:0]
    chosen = [int((distinct - distinct.mean(0)).norm(dim=1).argmax())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(distinct, distinct[chosen]).amin(1).argmax()))
    centres = distinct[chosen]
    for _ in range(_ROUNDS):
        nearest = torch.cdist(rows, centres).argmin(1)
        moved = torch.stack([rows[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(count)])
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def weakest_direction(gram: Tensor, rank: int) -> Tensor:
    """The direction [d] in which a matrix W with ``gram = W^T W`` [d, d] gives least, of the ``rank`` it reads at all.

    It points to where its largest entry is positive.
    """
    direction = torch.linalg.eigh(gram).eigenvectors[:, len(gram) - rank]
    return direction * torch.sign(direction[direction.abs().argmax()])

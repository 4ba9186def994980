"""Several erasures solved as one: every map knows of the others' rows, so that none disturbs another.

The rows of all are put into one :class:`EditProblem` and its ``Y`` is cut up again, ``T(g) = I + sum_i g_i D_i Y_i``.
Independent of order; with the gain of one at 0 its rows act like preserved ones, since ``Y_i c_j`` is near 0 for the
rows of another concept. Summing maps that were solved apart has neither property.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .diagnostics import misses
from .erasure import EmbeddingMap, MapFactor
from .errors import BadInput
from .solver import EditProblem

_ALIKE = 0.9  # cosine from which two rows count as one direction
_PART = 1024  # rows that are compared with all others at once
_APART = 0.5  # distance of two anchors, in lengths of the longer one, from which they count as different
_RESIDUAL = 0.25  # share of the way that a concept must miss before a conflict is worth a word


def united(problems: Sequence[EditProblem]) -> EditProblem:
    """All problems of one text space as one; ``groups`` are the numbers of the problems.

    A row that is preserved by several counts once, with the largest weight, and so does a pair that several erase: the
    union of what was asked, as if all had been asked at once. The ridge is the mean over erased rows.
    """
    if not problems:
        raise BadInput("There is nothing to join.")
    widths = {problem.width for problem in problems}
    if len(widths) > 1:
        raise BadInput(f"Erasures of text vectors of different widths ({sorted(widths)}) cannot be joined.")
    pairs, omega, groups = [], [], []
    kept: list[Tensor] = []
    kept_omega: list[Tensor] = []
    known: dict[tuple[int, bytes, bytes], int] = {}
    for number, problem in enumerate(problems):
        rows = problem.rows
        pairs.append(torch.cat([rows.erase, rows.anchors], dim=1))
        omega.append(rows.omega)
        groups.append(torch.full((len(rows.erase),), number))
        alike = (len(rows.preserve), rows.preserve[:1].numpy().tobytes(), rows.preserve[-1:].numpy().tobytes())
        place = known.setdefault(alike, len(kept))
        if place < len(kept) and torch.equal(kept[place], rows.preserve):  # most keep the same: their rows once will do
            kept_omega[place] = torch.maximum(kept_omega[place], rows.omega_preserve)
            continue
        kept.append(rows.preserve)
        kept_omega.append(rows.omega_preserve)
    count = torch.tensor([len(part) for part in pairs], dtype=torch.float64)
    ridges = torch.tensor([problem.effective_ridge for problem in problems], dtype=torch.float64)
    distinct, weights, owners = _largest(torch.cat(pairs), torch.cat(omega), torch.cat(groups))
    preserve, preserve_weights, _ = _largest(
        torch.cat(kept), torch.cat(kept_omega), torch.zeros(sum(map(len, kept)), dtype=torch.long)
    )
    width = problems[0].width
    return EditProblem(
        distinct[:, :width],
        distinct[:, width:],
        preserve,
        float((ridges * count).sum() / count.sum()),
        weights,
        preserve_weights,
        owners,
        problems[0].space,
    )


def joint_maps(problems: Sequence[EditProblem]) -> list[EmbeddingMap]:
    """One map for each problem, from one solve over all of their rows."""
    whole = united(problems)
    up, down = whole.factors()
    owners = whole.rows.groups
    return [
        EmbeddingMap(
            whole.space,
            (MapFactor(down[owners == i].float().contiguous(), up[:, owners == i].float().contiguous()),),
        )
        for i in range(len(problems))
    ]


@dataclass(frozen=True)
class Conflict:
    """Two erasures (their numbers) that pull one direction to different anchors, and what the worse one misses."""

    first: int
    second: int
    cosine: float
    missed: float


def conflicts(problems: Sequence[EditProblem]) -> list[Conflict]:
    """Pairs of problems that cannot both have their way, worst first.

    A pair counts if a row of each points the same way (cosine 0.9), their anchors are apart (half a length), and in
    the joint solution one of the two misses a quarter of its way.
    """
    whole = united(problems)
    up, down = whole.factors()
    rows = whole.rows
    wanted = (rows.erase - rows.anchors).norm(dim=1).clamp_min(1e-30)
    missed = misses(rows.erase, down, up, None, rows.anchors - rows.erase) / wanted
    unit, lengths = torch.nn.functional.normalize(rows.erase, dim=1), rows.anchors.norm(dim=1)
    found: dict[tuple[int, int], Conflict] = {}
    for i, j in _alike(unit, rows.groups):
        worse = torch.maximum(missed[i], missed[j])
        apart = (rows.anchors[i] - rows.anchors[j]).norm(dim=1) > _APART * torch.maximum(lengths[i], lengths[j])
        bad = apart & (worse > _RESIDUAL)
        for one, other, how in zip(i[bad].tolist(), j[bad].tolist(), worse[bad].tolist(), strict=True):
            first, second = sorted((int(rows.groups[one]), int(rows.groups[other])))
            old = found.get((first, second))
            if old is None or how > old.missed:
                found[first, second] = Conflict(first, second, float(unit[one] @ unit[other]), how)
    return sorted(found.values(), key=lambda conflict: -conflict.missed)


def _alike(unit: Tensor, groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of rows of two erasures that point the same way, each pair once, some rows at a time."""
    for start in range(0, len(unit), _PART):
        near = torch.triu(unit[start : start + _PART] @ unit[start:].T > _ALIKE, diagonal=1)
        i, j = (torch.nonzero(near) + start).T.split(1)
        apart = groups[i[0]] != groups[j[0]]
        yield from zip(i[0][apart].split(_PART), j[0][apart].split(_PART), strict=True)


def by_space(parts: Sequence[Mapping[str, EditProblem]]) -> dict[str, list[tuple[int, EditProblem]]]:
    """Text space -> (number of the erasure, its problem there)."""
    spaces = dict.fromkeys(space for part in parts for space in part)
    return {space: [(i, part[space]) for i, part in enumerate(parts) if space in part] for space in spaces}


def _largest(rows: Tensor, weights: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows with the largest weight of equal ones and the smallest group."""
    if len(rows) == 0:
        return rows, weights, groups
    distinct, index = torch.unique(rows + 0.0, dim=0, return_inverse=True)
    most = torch.zeros(len(distinct), dtype=weights.dtype).scatter_reduce(0, index, weights, "amax", include_self=False)
    first = torch.full((len(distinct),), int(groups.max())).scatter_reduce(0, index, groups, "amin")
    return distinct, most, first

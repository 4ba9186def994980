"""How few rank-one terms a solved change can do with, judged by what the model's matrices make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..compression import ENERGY_ERROR, Ranked, output_gram, output_metric
from ..erasure import POOLED_SPACE, POOLED_WEIGHT, cross_attention_names
from ..errors import BadInput
from ..models import EditableModel
from ..solver import SMALL_RANK, Solved

_TRIES = 8
_FEW = 8  # below an eighth of the width, terms are sent through the matrices themselves instead of looking up S


def fewest(model: EditableModel, space: str, answer: Solved, applies: str = "kv") -> tuple[Solved, dict[str, Any]]:
    """``answer`` with as few terms as lose at most 1e-4 of the whole change's energy on the outputs, and notes on it.

    Terms of a concept stay its own. Where none has more than 8 nothing is done. Notes: ``energy_error`` and
    ``energy_of``: "outputs", or "text" if the weights are quantised, so that only the text vectors can be compared.
    """
    _, sizes = torch.unique(answer.groups, return_counts=True)
    if len(sizes) == 0 or int(sizes.max()) <= SMALL_RANK:
        return answer, {}
    if len(answer.down) * _FEW < len(answer.up):
        gram, source = _gram(model, space, answer.up, applies)
        made, missed = _fewer(answer, _ByGram(answer, gram))
    else:
        metric, source = text_metric(model, space, applies)
        made, missed = _fewer(answer, _ByMetric(answer, metric))
    return made, {"energy_of": source, "energy_error": float(f"{missed:.3g}")}


def text_metric(model: EditableModel, space: str, applies: str = "kv") -> tuple[Tensor, str]:
    """``S`` [d, d] of the matrices that read ``space``; the unit matrix where weights are quantised."""
    weights, width = model.weights(), model.spaces[space]
    try:
        return output_metric(weights, _readers(weights, space, applies), width), "outputs"
    except BadInput:
        return torch.eye(width, dtype=torch.float64), "text"


def _gram(model: EditableModel, space: str, up: Tensor, applies: str) -> tuple[Tensor, str]:
    """Gram matrix of the terms' outputs; of the terms themselves where weights are quantised and cannot be read."""
    weights = model.weights()
    try:
        return output_gram(weights, _readers(weights, space, applies), up), "outputs"
    except BadInput:
        return up.T @ up, "text"


def _readers(weights: Mapping[str, Tensor], space: str, applies: str) -> list[str]:
    return [POOLED_WEIGHT] if space == POOLED_SPACE else cross_attention_names(weights, applies)


class _ByGram:
    """Energies from the Gram matrix [r, r] of all terms' outputs."""

    def __init__(self, answer: Solved, gram: Tensor) -> None:
        self._up, self._down, self._gram = answer.up, answer.down, gram
        self._total = float((self._down * (gram @ self._down)).sum())

    def ranked(self, mine: Tensor) -> tuple[Tensor, Ranked]:
        """Some terms' ``up`` and their strongest directions."""
        return self._up[:, mine], Ranked.of(self._down[mine], self._gram[mine][:, mine])

    def missed(self, up: Tensor, down: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]]) -> float:
        """Share of the change's energy that ``up @ down`` misses; ``parts``: terms, and what stands for them."""
        rest = self._down.clone()
        for mine, mix, small in parts:
            rest[mine] -= mix @ small
        return float((rest * (self._gram @ rest)).sum()) / max(self._total, 1e-300)


class _ByMetric:
    """Energies from ``S`` [d, d], whatever the number of terms."""

    def __init__(self, answer: Solved, metric: Tensor) -> None:
        self._up, self._down, self._metric = answer.up, answer.down, metric
        unit = torch.eye(len(metric), dtype=metric.dtype)
        self._change = answer.up if torch.equal(answer.down, unit) else answer.up @ answer.down
        self._total = self._energy(self._change)

    def ranked(self, mine: Tensor) -> tuple[Tensor, Ranked]:
        """As in :class:`_ByGram`; of more terms than dimensions, the change itself is decomposed."""
        if len(mine) < len(self._metric):
            up = self._up[:, mine]
            return up, Ranked.of(self._down[mine], up.T @ (self._metric @ up))
        whole = len(mine) == len(self._down)
        change = self._change if whole else self._up[:, mine] @ self._down[mine]
        return change, Ranked.of(None, change.T @ (self._metric @ change))

    def missed(self, up: Tensor, down: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]]) -> float:
        """As in :class:`_ByGram`."""
        return self._energy(self._change - up @ down) / max(self._total, 1e-300)

    def _energy(self, change: Tensor) -> float:
        return float((change * (self._metric @ change)).sum())


def _fewer(answer: Solved, judge: _ByGram | _ByMetric) -> tuple[Solved, float]:
    """Compress each concept's own terms, so that every rank-one term still belongs to one concept.

    Changes of alike concepts can nearly cancel, and then their errors weigh more in the sum than each by itself: the
    bound per concept is tightened until the sum keeps it.
    """
    owners, found = answer.groups, []
    for owner in owners.unique().tolist():
        mine = torch.nonzero(owners == owner).flatten()
        found.append((owner, mine, *judge.ranked(mine)))
    error = ENERGY_ERROR
    for _ in range(_TRIES):
        ups, downs, kept, parts = [], [], [], []
        for owner, mine, up, ranked in found:
            mix, small = ranked.cut(error)
            ups.append(up @ mix)
            downs.append(small)
            kept += [owner] * len(small)
            parts.append((mine, mix, small))
        all_up, all_down = torch.cat(ups, dim=1), torch.cat(downs)
        missed = judge.missed(all_up, all_down, parts)
        if missed <= ENERGY_ERROR:
            return replace(answer, up=all_up, down=all_down, groups=torch.tensor(kept)), missed
        error *= 0.8 * ENERGY_ERROR / missed
    return answer, 0.0

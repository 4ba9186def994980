"""What all closed-form methods share: from a solved problem to an erasure with rank, diagnostics and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compression import ENERGY_ERROR, compress, energy_error, output_gram, output_metric
from ..concepts import Concept
from ..diagnostics import diagnose
from ..erasure import POOLED_SPACE, POOLED_WEIGHT, EmbeddingMap, Erasure, MapFactor, WeightDelta, cross_attention_names
from ..errors import BadInput
from ..models import EditableModel
from ..probe import probe
from ..solver import EditProblem, Solved

SMALL_RANK = 8  # a concept with this many rows or fewer is kept exactly
_TRIES = 8


def finish(
    model: EditableModel,
    problems: Mapping[str, EditProblem | Solved],
    recipe: Mapping[str, Any],
    gate: Mapping[str, Any],
    exact: bool,
    deltas: Mapping[str, WeightDelta] | None = None,
    applies: str = "kv",
) -> Erasure:
    """Solve every text space's problem, unless the method has, and wrap the maps up.

    If a concept has more than 8 rows, concepts get as few rank-one terms as lose at most 1e-4 of the whole change's
    energy on the model's outputs (``energy_error``; if ``energy_of`` says "text", on the text vectors, because the
    weights are quantised); with ``exact`` every row is kept. ``deltas``: what acts on the cross-attention weights
    instead of a map, made by the method from the first problem. ``applies``: the matrices a map is for.
    """
    maps, groups = {}, {}
    diagnostics: dict[str, Any] = {}
    context = next(iter(problems))
    for space, given in problems.items():
        problem = given.problem if isinstance(given, Solved) else given
        if deltas is not None and space == context:
            diagnostics[space] = {"ridge": problem.effective_ridge, "rows_erased": len(problem.rows.erase)}
            continue
        answer = given if isinstance(given, Solved) else given.solved()
        up, down, owners, notes = answer.up, answer.down, answer.groups, dict(answer.notes)
        if not exact and _largest_group(owners) > SMALL_RANK:
            if len(down) > problem.width:
                metric, notes["energy_of"] = text_metric(model, space, applies)
                down, up, owners, notes["energy_error"] = _compressed_wide(down, up, owners, metric)
            else:
                gram, notes["energy_of"] = _gram(model, space, up, applies)
                down, up, owners, notes["energy_error"] = _compressed(down, up, owners, gram)
        bias = None if answer.bias is None else answer.bias.float()
        maps[space] = EmbeddingMap(space, (MapFactor(down.float().contiguous(), up.float().contiguous(), bias),))
        groups[space] = owners.tolist()
        diagnostics[space] = {**diagnose(problem, down, up, answer.bias), "rank": len(down), **notes}
    return Erasure(
        maps=maps,
        weight_deltas=deltas or {},
        applies=applies,
        recipe={**recipe, "rows": groups},
        base={
            "family": model.family,
            "clip_skip": model.clip_skip,
            "widths": {space: model.spaces[space] for space in problems},
            "probe": {space: text for space, text in probe(model).items() if space in problems},
        },
        gate=gate,
        diagnostics=diagnostics,
        statistics=_joinable(problems) if deltas is None and applies == "kv" else {},
    )


def _joinable(problems: Mapping[str, EditProblem | Solved]) -> dict[str, EditProblem]:
    """The problems whose rows are all there is to them; what a method solved by itself cannot be joined exactly."""
    plain = {s: p for s, p in problems.items() if isinstance(p, EditProblem) and p.preserve_gram is None}
    return plain if len(plain) == len(problems) else {}


def concept_entries(concepts: Sequence[Concept], anchors: Sequence[str]) -> list[dict[str, Any]]:
    """Concepts as they stand in a recipe; ``anchor`` is what was really used."""
    return [
        {"target": c.target, "anchor": anchor, "aliases": list(c.aliases), "kind": c.kind, "weight": c.weight}
        for c, anchor in zip(concepts, anchors, strict=True)
    ]


def _largest_group(owners: Tensor) -> int:
    return int(torch.bincount(owners).max()) if len(owners) else 0


def _gram(model: EditableModel, space: str, up: Tensor, applies: str = "kv") -> tuple[Tensor, str]:
    """Gram matrix of the terms' outputs; of the terms themselves where weights are quantised and cannot be read."""
    weights = model.weights()
    try:
        return output_gram(weights, _readers(weights, space, applies), up), "outputs"
    except BadInput:
        return up.T @ up, "text"


def text_metric(model: EditableModel, space: str, applies: str = "kv") -> tuple[Tensor, str]:
    """``S`` [d, d] of the matrices that read ``space``; the unit matrix where weights are quantised."""
    weights, width = model.weights(), model.spaces[space]
    try:
        return output_metric(weights, _readers(weights, space, applies), width), "outputs"
    except BadInput:
        return torch.eye(width, dtype=torch.float64), "text"


def _readers(weights: Mapping[str, Tensor], space: str, applies: str = "kv") -> list[str]:
    return [POOLED_WEIGHT] if space == POOLED_SPACE else cross_attention_names(weights, applies)


def _compressed(down: Tensor, up: Tensor, owners: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Compress each concept's own rows, so that every rank-one term still belongs to one concept.

    Changes of alike concepts can nearly cancel, and then their errors weigh more in the sum than each by itself: the
    bound per concept is tightened until the sum keeps it.
    """
    error = ENERGY_ERROR
    for _ in range(_TRIES):
        mix, small_down, kept = _by_concept(down, owners, gram, error)
        missed = energy_error(down, gram, mix, small_down)
        if missed <= ENERGY_ERROR:
            return small_down, up @ mix, kept, float(f"{missed:.3g}")
        error *= 0.8 * ENERGY_ERROR / missed
    return down, up, owners, 0.0


def _compressed_wide(down: Tensor, up: Tensor, owners: Tensor, metric: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """The same for more terms than dimensions, with ``metric`` S [d, d] instead of a Gram matrix of all terms.

    Each concept's terms are brought to at most d first (exactly, by QR), so that no matrix is larger than d x d.
    """
    thin = []
    for owner in owners.unique().tolist():
        mine = owners == owner
        inner = torch.linalg.qr(down[mine].T)
        thin.append((owner, inner.Q.T, up[:, mine] @ inner.R.T))
    change, error = up @ down, ENERGY_ERROR
    total = float((change * (metric @ change)).sum())
    for _ in range(_TRIES):
        ups, downs, kept = [], [], []
        for owner, own_down, own_up in thin:
            mix, small_down = compress(own_down, own_up.T @ metric @ own_up, error)
            ups.append(own_up @ mix)
            downs.append(small_down)
            kept += [owner] * len(small_down)
        rest = change - torch.cat(ups, dim=1) @ torch.cat(downs)
        missed = float((rest * (metric @ rest)).sum()) / max(total, 1e-300)
        if missed <= ENERGY_ERROR:
            return torch.cat(downs), torch.cat(ups, dim=1), torch.tensor(kept), float(f"{missed:.3g}")
        error *= 0.8 * ENERGY_ERROR / missed
    whole = torch.tensor([owner for owner, own_down, _ in thin for _ in own_down])
    return torch.cat([t[1] for t in thin]), torch.cat([t[2] for t in thin], dim=1), whole, 0.0


def _by_concept(down: Tensor, owners: Tensor, gram: Tensor, error: float) -> tuple[Tensor, Tensor, Tensor]:
    mixes, downs, kept = [], [], []
    for owner in owners.unique().tolist():
        mine = torch.nonzero(owners == owner).flatten()
        mix, small_down = compress(down[mine], gram[mine][:, mine], error)
        mixes.append(torch.zeros(len(down), len(small_down), dtype=down.dtype).index_copy_(0, mine, mix))
        downs.append(small_down)
        kept += [owner] * len(small_down)
    return torch.cat(mixes, dim=1), torch.cat(downs), torch.tensor(kept)

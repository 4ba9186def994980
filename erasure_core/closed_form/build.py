"""What all closed-form methods share: from a solved problem to an erasure with rank, diagnostics and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compression import compress, energy_error, weight_metric
from ..concepts import Concept
from ..diagnostics import diagnose
from ..erasure import POOLED_SPACE, POOLED_WEIGHT, EmbeddingMap, Erasure, MapFactor, WeightDelta, cross_attention_names
from ..models import Model
from ..probe import probe
from ..solver import EditProblem

SMALL_RANK = 8  # a concept with this many rows or fewer is kept exactly


def finish(
    model: Model,
    problems: Mapping[str, EditProblem],
    recipe: Mapping[str, Any],
    gate: Mapping[str, Any],
    exact: bool,
    deltas: Mapping[str, WeightDelta] | None = None,
) -> Erasure:
    """Solve every text space's problem and wrap the maps up.

    A concept with more than 8 rows gets as few rank-one terms as lose at most 1e-4 of the change's energy on the
    model's outputs (stated under ``energy_error``); with ``exact`` every row is kept.
    """
    maps, diagnostics, groups = {}, {}, {}
    for space, problem in problems.items():
        up, down = problem.factors()
        owners = problem.rows.groups
        notes: dict[str, Any] = {}
        if not exact and _largest_group(owners) > SMALL_RANK:
            full_down, full_up = down, up
            metric = _metric(model, space, problem.width)
            down, up, owners = _compress_groups(down, up, owners, metric)
            notes["energy_error"] = float(f"{energy_error(full_down, full_up, down, up, metric):.3g}")
        maps[space] = EmbeddingMap(space, (MapFactor(down.float().contiguous(), up.float().contiguous()),))
        groups[space] = owners.tolist()
        diagnostics[space] = {**diagnose(problem, down, up), "rank": len(down), **notes}
    return Erasure(
        maps=maps if deltas is None else {},
        weight_deltas=deltas or {},
        recipe={**recipe, "rows": groups},
        base={
            "family": model.family,
            "clip_skip": model.clip_skip,
            "widths": {space: problem.width for space, problem in problems.items()},
            "probe": {space: text for space, text in probe(model).items() if space in problems},
        },
        gate=gate,
        diagnostics=diagnostics,
    )


def concept_entries(concepts: Sequence[Concept], anchors: Sequence[str]) -> list[dict[str, Any]]:
    """Concepts as they stand in a recipe; ``anchor`` is what was really used."""
    return [
        {"target": c.target, "anchor": anchor, "aliases": list(c.aliases), "kind": c.kind, "weight": c.weight}
        for c, anchor in zip(concepts, anchors, strict=True)
    ]


def _largest_group(owners: Tensor) -> int:
    return int(torch.bincount(owners).max()) if len(owners) else 0


def _metric(model: Model, space: str, width: int) -> Tensor:
    weights = model.weights()
    names = [POOLED_WEIGHT] if space == POOLED_SPACE else cross_attention_names(weights)
    return weight_metric(weights, names, width)


def _compress_groups(down: Tensor, up: Tensor, owners: Tensor, metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compress each concept's own rows, so that every rank-one term still belongs to one concept."""
    downs, ups, kept = [], [], []
    for owner in owners.unique().tolist():
        mine = owners == owner
        small_down, small_up = compress(down[mine], up[:, mine], metric)
        downs.append(small_down)
        ups.append(small_up)
        kept += [owner] * len(small_down)
    return torch.cat(downs), torch.cat(ups, dim=1), torch.tensor(kept)

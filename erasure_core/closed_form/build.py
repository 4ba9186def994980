"""What all closed-form methods share: from a solved problem to an erasure with rank, diagnostics and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..concepts import Concept
from ..diagnostics import diagnose
from ..erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from ..models import EditableModel
from ..probe import probe
from ..solver import EditProblem, Solved
from ..summed import Problem
from .terms import fewest


def finish(
    model: EditableModel,
    problems: Mapping[str, Problem | Solved],
    recipe: Mapping[str, Any],
    gate: Mapping[str, Any],
    exact: bool,
    deltas: Mapping[str, WeightDelta] | None = None,
    applies: str = "kv",
) -> Erasure:
    """Solve every text space's problem, unless the method has, and wrap the maps up.

    If a concept has more than 8 rows, concepts get as few rank-one terms as :func:`.terms.fewest` finds; with ``exact``
    nothing is left out. ``deltas``: what acts on the cross-attention weights
    instead of a map, made by the method from the first problem. ``applies``: the matrices a map is for.
    """
    maps, groups = {}, {}
    diagnostics: dict[str, Any] = {}
    context = next(iter(problems))
    for space, given in problems.items():
        problem = given.problem if isinstance(given, Solved) else given
        if deltas is not None and space == context:
            diagnostics[space] = {"ridge": problem.effective_ridge, "rows_erased": problem.counts[0]}
            continue
        answer = given if isinstance(given, Solved) else given.solved()
        small, judged = (answer, {}) if exact else fewest(model, space, answer, applies)
        up, down = small.up, small.down
        bias = None if answer.bias is None else answer.bias.float()
        maps[space] = EmbeddingMap(space, (MapFactor(down.float().contiguous(), up.float().contiguous(), bias),))
        groups[space] = small.groups.tolist()
        found = diagnose(problem, down, up, answer.bias)
        diagnostics[space] = {**found, "rank": len(down), **answer.notes, **judged}
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


def _joinable(problems: Mapping[str, Problem | Solved]) -> dict[str, EditProblem]:
    """The problems whose rows are all there is to them; what a method solved by itself cannot be joined exactly."""
    plain = {s: p for s, p in problems.items() if isinstance(p, EditProblem) and p.preserve_gram is None}
    return plain if len(plain) == len(problems) else {}


def concept_entries(concepts: Sequence[Concept], anchors: Sequence[str]) -> list[dict[str, Any]]:
    """Concepts as they stand in a recipe; ``anchor`` is what was really used."""
    return [
        {"target": c.target, "anchor": anchor, "aliases": list(c.aliases), "kind": c.kind, "weight": c.weight}
        for c, anchor in zip(concepts, anchors, strict=True)
    ]

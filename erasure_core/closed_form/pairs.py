"""What closed-form methods have in common before anything is solved: whose words, in which sentences, what stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..concepts import Concept
from ..embeddings import Pair, select_rows
from ..erasure import POOLED_SPACE
from ..errors import BadInput
from ..models import EditableModel
from ..solver import EditProblem
from ..templates import fill
from .build import concept_entries

Wording = Callable[[Concept], Iterable[str]]


def in_order(concepts: Iterable[Concept]) -> list[Concept]:
    """Concepts in the one order in which they are solved, however they were given."""
    return sorted(concepts, key=lambda c: (c.target, c.kind))


def neutral_anchor(concept: Concept, neutrals: Mapping[str, str]) -> str:
    """The concept's anchor, or the neutral words of its kind. Raises BadInput if those are what is to be erased."""
    anchor = concept.resolved_anchor(neutrals)
    if anchor.casefold() in map(str.casefold, concept.phrases):
        raise BadInput(f"'{anchor}' is itself the neutral word of its kind. Name an anchor for it.")
    return anchor


def spoken_pairs(
    concepts: Sequence[Concept], anchors: Sequence[str], sentences: Wording, anchored: bool = True
) -> list[Pair]:
    """Every phrase of every concept in every sentence, beside the same sentence with the anchor in its place.

    ``anchored`` False leaves the anchor a bare phrase. A pair weighs what its concept weighs.
    """
    return [
        Pair(
            fill(sentence, phrase),
            fill(sentence, anchor) if anchored else anchor,
            phrase,
            anchor,
            concept.weight,
            group,
        )
        for group, (concept, anchor) in enumerate(zip(concepts, anchors, strict=True))
        for phrase in concept.phrases
        for sentence in sentences(concept)
    ]


def empty_prompt(model: EditableModel, space: str) -> Tensor:
    """Rows of the empty prompt: 77 with the start token in front, or the one pooled vector."""
    return select_rows(model, [""], "POOLED" if space == POOLED_SPACE else "ALL77")


def staying(
    model: EditableModel,
    space: str,
    phrases: Sequence[str],
    selector: str,
    scale: float = 1.0,
    protect: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rows [p, d] and weights [p] of what must stay: ``phrases`` at ``scale`` a row, and the empty prompt.

    ``protect`` is the weight of the empty prompt as a whole. The hosts encode it as the negative prompt, and its first
    row, the start token, is the same in every prompt.
    """
    empty = empty_prompt(model, space)
    weights = torch.full((len(empty),), protect / len(empty), dtype=torch.float64)
    if not phrases:
        return empty, weights
    rows = select_rows(model, phrases, "POOLED" if space == POOLED_SPACE else selector)
    return torch.cat([rows, empty]), torch.cat([torch.full((len(rows),), scale, dtype=torch.float64), weights])


def unit(rows: Tensor) -> float:
    """Mean |row|^2 / width: what one row adds to the mean eigenvalue; about 1 on Stable Diffusion 1."""
    return float(rows.double().square().sum(1).mean()) / rows.shape[1]


def recipe(
    method: Any,
    settings: Any,
    parity: bool,
    concepts: Sequence[Concept],
    anchors: Sequence[str],
    kept: Sequence[str],
    problems: Mapping[str, EditProblem],
    **more: Any,
) -> dict[str, Any]:
    """Everything that makes the erasure again; ``method`` is the module, ``more`` the selection, templates, seeds."""
    return {
        "method": method.NAME,
        "concepts": concept_entries(concepts, anchors),
        "preserve": list(kept),
        "options": {k: v for k, v in asdict(settings).items() if v != getattr(method.Settings(), k)},
        "parity": parity,
        "ridge": max(problem.effective_ridge for problem in problems.values()),
        "seeds": [],
        **more,
    }


def gate(concepts: Sequence[Concept], kept: Sequence[str], more: Iterable[str] = ()) -> dict[str, list[str]]:
    """What activation looks for: the phrases of the concepts and ``more``, and the neighbours that must stay."""
    return {
        "phrases": list(dict.fromkeys([*(p for c in concepts for p in c.phrases), *more])),
        "neighbours": list(kept),
    }

"""Solving again from a recipe, joining erasures exactly, taking concepts out; :mod:`joint` has the mathematics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .closed_form import METHODS, erase
from .combine import METHOD, combine
from .concepts import Concept
from .digest import fixed_order
from .erasure import Erasure
from .errors import BadInput, MembraneError
from .joint import by_space, joint_maps
from .matching import Finder
from .models import EditableModel
from .options import refuse_files
from .solver import EditProblem
from .words import words_of_text


def erase_again(model: EditableModel, recipe: Mapping[str, Any]) -> Erasure:
    """The erasure that a ``recipe`` describes, solved for ``model``: the same numbers for the same text encoder.

    Raises BadInput for a recipe that is incomplete or of a method that cannot be solved again.
    """
    if recipe.get("trained"):
        raise BadInput(
            f"The erasure was trained ({recipe.get('method')}), which is more than solving it again. Get its file, or "
            "train it again."
        )
    try:
        if recipe["method"] == METHOD:
            parts = [(erase_again(model, part["recipe"]), float(part["strength"])) for part in recipe["parts"]]
            return join(parts) if recipe.get("joint") else combine(parts)
        concepts = [
            Concept(str(c["target"]), str(c["anchor"]), tuple(c["aliases"]), kind=str(c["kind"]), weight=c["weight"])
            for c in recipe["concepts"]
        ]
        method, options = str(recipe["method"]), dict(recipe.get("options", {}))
        parity, preserve = bool(recipe.get("parity", False)), [str(phrase) for phrase in recipe.get("preserve", ())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            "The recipe of this membrane is incomplete, so it cannot be solved again. Get the file, or erase again."
        ) from error
    if method in METHODS:
        refuse_files(METHODS[method].Settings, options)
    return erase(model, concepts, method, preserve, parity, **options)


def joined(erasures: Sequence[Erasure], model: EditableModel | None = None) -> list[Erasure] | None:
    """The same erasures with maps that know of each other, from one solve over all of their rows.

    The rows come with an erasure that was just solved or saved with ``statistics=True``; else ``model`` encodes its
    recipe again. None if the rows of any are not to be had: such erasures can only be summed.

    "No circle" may preserve the star and "no star" be in the same list. Erasing wins: with ``model`` such an erasure is
    solved again without the phrases that name what another one erases, unless that one preserves them itself. Solved
    with them the star would go half of its way. Without ``model`` they stay.
    """
    with_rows = [_with_rows(erasure, model) for erasure in _conceding(erasures, model)]
    if any(erasure is None for erasure in with_rows):
        return None
    known = [erasure for erasure in with_rows if erasure is not None]
    maps: list[dict[str, Any]] = [{} for _ in known]
    for given in by_space([erasure.statistics for erasure in known]).values():
        rows = [problem.rows for _, problem in given]
        members = [given[i] for i in fixed_order([[r.erase, r.anchors, r.preserve, r.omega] for r in rows])]
        solved = joint_maps([problem for _, problem in members])
        for (number, problem), emap in zip(members, solved, strict=True):
            maps[number][problem.space] = emap
    return [replace(erasure, maps=found) for erasure, found in zip(known, maps, strict=True)]


def join(parts: Sequence[tuple[Erasure, float]], model: EditableModel | None = None) -> Erasure:
    """Erasures with strengths as one, jointly solved where their rows can be had, else summed.

    ``recipe["joint"]`` says which it was.
    """
    together = joined([erasure for erasure, _ in parts], model) if len(parts) > 1 else None
    if together is None:
        return combine(parts)
    strengths = [strength for _, strength in parts]
    made = combine(list(zip(together, strengths, strict=True)))
    return replace(made, recipe={**made.recipe, "joint": True})


def subtract(erasure: Erasure, targets: Sequence[str], model: EditableModel | None = None) -> Erasure:
    """``erasure`` without the concepts of the names ``targets``.

    With ``model`` it is solved again from its recipe, exactly as if they had never been in it; without, from its rows,
    where the ridge stays the one that was right for all of them. Raises BadInput for a name that it does not erase, if
    nothing would be left, or if neither rows nor model are there.
    """
    concepts = [c for c in erasure.recipe.get("concepts", ()) if isinstance(c, Mapping)]
    names = [str(c.get("target", "")) for c in concepts]
    unknown = [target for target in targets if target not in names]
    if unknown:
        raise BadInput(f"This erasure does not erase '{unknown[0]}'. It erases {', '.join(names) or 'nothing known'}.")
    left = [i for i, name in enumerate(names) if name not in targets]
    if not left:
        raise BadInput("Nothing would be left of this erasure. Remove it from the list instead.")
    recipe = {**erasure.recipe, "concepts": [concepts[i] for i in left]}
    if "rows" in recipe:
        recipe["rows"] = {}
    if model is not None and recipe.get("method") != METHOD:
        return erase_again(model, recipe)
    if not erasure.statistics:
        raise BadInput("This file has no rows to solve again from. Give the model, or erase the rest again.")
    problems = {space: _without(problem, left) for space, problem in erasure.statistics.items()}
    phrases = [str(p) for i in left for p in (concepts[i]["target"], *concepts[i].get("aliases", ()))]
    return replace(
        erasure,
        maps={space: problem.solve() for space, problem in problems.items()},
        recipe=recipe,
        gate={**erasure.gate, "phrases": phrases},
        diagnostics={},
        statistics=problems,
    )


def _conceding(erasures: Sequence[Erasure], model: EditableModel | None) -> list[Erasure]:
    """The erasures; those that preserve what another one erases with recipe and rows as if they did not."""
    if model is None:
        return list(erasures)
    kept = [[str(phrase) for phrase in erasure.recipe.get("preserve", ())] for erasure in erasures]
    found = Finder(
        (i, phrase, False) for i, erasure in enumerate(erasures) for phrase in map(str, erasure.gate.get("phrases", ()))
    )
    conceded = []
    for i, erasure in enumerate(erasures):
        undisputed = [
            phrase
            for phrase in kept[i]
            if all(hit.entry.owner == i or phrase in kept[hit.entry.owner] for hit in found(words_of_text(phrase)))
        ]
        conceded.append(erasure if undisputed == kept[i] else _preserving(erasure, undisputed, model))
    return conceded


def _preserving(erasure: Erasure, phrases: Sequence[str], model: EditableModel) -> Erasure:
    """``erasure`` with the rows and the recipe of one that preserves ``phrases``; as it is if it cannot be had."""
    recipe = {**erasure.recipe, "preserve": list(phrases)}
    try:
        return replace(erasure, recipe=recipe, statistics=erase_again(model, recipe).statistics)
    except MembraneError:
        return erasure


def _with_rows(erasure: Erasure, model: EditableModel | None) -> Erasure | None:
    if erasure.weight_deltas and not erasure.maps:
        return None
    if erasure.statistics:
        return erasure
    if model is None or not erasure.recipe.get("concepts"):
        return None
    try:
        again = erase_again(model, erasure.recipe)
    except MembraneError:
        return None  # a recipe of a newer version, say: summing is still possible, and the receipt says so
    return replace(erasure, statistics=again.statistics) if again.statistics else None


def _without(problem: EditProblem, left: Sequence[int]) -> EditProblem:
    """The rows of the concepts ``left`` alone, numbered anew."""
    rows = problem.rows
    mine = torch.isin(rows.groups, torch.tensor(left))
    numbers = torch.tensor([left.index(int(group)) for group in rows.groups[mine]], dtype=torch.long)
    return EditProblem(
        rows.erase[mine],
        rows.anchors[mine],
        rows.preserve,
        problem.ridge,
        rows.omega[mine],
        rows.omega_preserve,
        numbers,
        problem.space,
    )

"""How far the pictures that should not change have moved, against how far a new seed moves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .distance import distances
from .groups import UNRELATED, Case, PromptGroup
from .tally import stability_groups

Loader = Callable[[Case, int], Tensor | None]
Moves = dict[tuple[str, str, int], tuple[float | None, tuple[float, ...]]]


def moves(groups: Sequence[PromptGroup], load: Loader) -> Moves:
    """For every unrelated (group, prompt, seed): distance before-after, distances to other seeds of its prompt.

    ``load(case, side)`` gives a picture uint8 [3, H, W] or None if it cannot be read; side 0 is the model alone.
    """
    by_prompt: dict[str, dict[int, Case]] = {}
    for group in stability_groups(groups):
        for case in group.cases:
            by_prompt.setdefault(case.prompt, {}).setdefault(case.seed, case)
    found: Moves = {}
    for group in groups:
        if group.role == UNRELATED:
            for case in group.cases:
                found[group.name, case.prompt, case.seed] = _move(case, by_prompt[case.prompt], load)
    return found


def _move(case: Case, draws: dict[int, Case], load: Loader) -> tuple[float | None, tuple[float, ...]]:
    before, after = load(case, 0), load(case, 1)
    if before is None:
        return None, ()
    others = [load(other, 0) for seed, other in sorted(draws.items()) if seed != case.seed]
    spread = tuple(_distance(before, other) for other in others if other is not None)
    return None if after is None else _distance(before, after), spread


def _distance(first: Tensor, second: Tensor) -> float:
    return float(distances(first[None] / 255, second[None] / 255)[0])

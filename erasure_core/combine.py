"""Several erasures as one: their changes added up, so that one file holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .bottleneck import sum_of_bottlenecks
from .erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from .errors import BadInput, WrongFamily

METHOD = "sum"


def combine(parts: Sequence[tuple[Erasure, float]]) -> Erasure:
    """The sum of erasures with strengths: what applying all of them at once does. One at strength 1 is returned as is.

    Maps of one space become one map of added ranks, changes of one weight one change. Raises WrongFamily if they were
    made for different model families or on text encoders of different clip-skip, BadInput for an empty list.
    """
    if not parts:
        raise BadInput("There is no membrane to save. Connect at least one.")
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    scaled = [erasure.scaled(strength) for erasure, strength in parts]
    first = parts[0][0]
    for other, _ in parts[1:]:
        _check(first, other)
    maps = {
        space: _sum_of_maps([e.maps[space] for e in scaled if space in e.maps])
        for space in dict.fromkeys(s for e in scaled for s in e.maps)
    }
    deltas = {
        name: _sum_of_deltas([e.weight_deltas[name] for e in scaled if name in e.weight_deltas])
        for name in dict.fromkeys(n for e in scaled for n in e.weight_deltas)
    }
    bottlenecks = {
        name: sum_of_bottlenecks([e.bottlenecks[name] for e in scaled if name in e.bottlenecks])
        for name in dict.fromkeys(n for e in scaled for n in e.bottlenecks)
    }
    members = [{"strength": strength, "recipe": dict(erasure.recipe)} for erasure, strength in parts]
    return Erasure(
        maps=maps,
        weight_deltas=deltas,
        bottlenecks=bottlenecks,
        applies=first.applies,
        recipe={"method": METHOD, "concepts": _united("concepts", parts), "parts": members},
        base=next((e.base for e, _ in parts if e.base.get("probe")), first.base),
        gate={
            "phrases": [p for e, _ in parts for p in e.gate.get("phrases", ())],
            "neighbours": list(dict.fromkeys(p for e, _ in parts for p in e.gate.get("neighbours", ()))),
        },
    )


def _check(first: Erasure, other: Erasure) -> None:
    for key, what in (("family", "model family"), ("clip_skip", "clip-skip")):
        one, two = first.base.get(key), other.base.get(key)
        if one and two and one != two:
            raise WrongFamily(
                f"These membranes were made for different models ({what} {one} and {two}), so they cannot become one "
                "file. Save them one by one."
            )
    if first.applies != other.applies:
        raise WrongFamily("These membranes act on different parts of attention. Save them one by one.")


def _sum_of_maps(maps: Sequence[EmbeddingMap]) -> EmbeddingMap:
    factors = [emap.linear() for emap in maps]
    if len(maps) == 1:
        return maps[0]
    down, up = torch.cat([f.down for f in factors]), torch.cat([f.up for f in factors], dim=1)
    return EmbeddingMap(maps[0].space, (MapFactor(down, up),))


def _sum_of_deltas(deltas: Sequence[WeightDelta]) -> WeightDelta:
    first = deltas[0]
    if len(deltas) == 1:
        return first
    if any(delta.shape != first.shape for delta in deltas):
        raise WrongFamily(f"These membranes change {first.name} of different shapes: they belong to different models.")
    if any(delta.diff is not None for delta in deltas):
        return WeightDelta(first.name, diff=torch.stack([delta.dense() for delta in deltas]).sum(0))
    downs = [delta.down.float() for delta in deltas if delta.down is not None]
    ups = [delta.up.float() * delta.scale for delta in deltas if delta.up is not None]
    return WeightDelta(first.name, down=torch.cat(downs), up=torch.cat(ups, dim=1))


def _united(key: str, parts: Sequence[tuple[Erasure, float]]) -> list[Any]:
    return [entry for erasure, _ in parts for entry in erasure.recipe.get(key, ())]

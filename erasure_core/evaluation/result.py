"""What a bench found out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..atomic import write_bytes
from ..errors import BadInput
from .axes import Scores, known
from .cache import PictureCache, Sampler, Shot
from .groups import CONCEPT_ROLES, Case, PromptGroup
from .intervals import Estimate, Rate
from .records import FILE_NAME
from .scores import axes_text
from .table import result_table
from .tally import Cluster, Pair, attributes, clusters_of, labels, rates

SCHEMA = "membrane.bench/1"


@dataclass(frozen=True)
class BenchResult:
    """Counts, scores and where the pictures are.

    ``pairs``: group name -> judged pairs. ``model`` and ``membrane`` are content hashes (``"base"``: no membrane).
    """

    target: str
    groups: tuple[PromptGroup, ...]
    pairs: Mapping[str, Sequence[Pair]]
    scores: Scores
    weights: str
    model: str
    membrane: str
    sampler: Sampler
    detector: str
    pictures: PictureCache
    shots: Mapping[tuple[str, str, int, int], Shot]

    @cached_property
    def clusters(self) -> dict[str, list[Cluster]]:
        """Group name -> counts per prompt."""
        return {group.name: clusters_of(group, self.pairs[group.name], self.target) for group in self.groups}

    def group(self, name: str) -> PromptGroup:
        """The group of that name; raises :class:`BadInput` for an unknown one."""
        for group in self.groups:
            if group.name == name:
                return group
        raise BadInput(f"There is no prompt group {name!r}; there are {', '.join(g.name for g in self.groups)}.")

    def rate(self, group: str, attribute: str = "", label: str | None = None) -> tuple[Rate, Rate]:
        """Before and after: pictures of a group that show what its prompts ask for.

        ``attribute`` defaults to the concept's own; ``label`` counts only prompts that ask for it.
        """
        return rates(self.clusters[self.group(group).name], attribute or self.group(group).attribute, label)

    def testable(self, group: str) -> bool:
        """Whether the base model knows the concept of this group well enough for a removal to be measured."""
        return self.group(group).role not in CONCEPT_ROLES or known(self.rate(group)[0])

    def picture(self, case: Case, model: int) -> Path:
        """File of a case's picture: model 0 alone, 1 with the membrane."""
        return self.pictures.path(self.shots[case.group, case.prompt, case.seed, model])

    @property
    def undecided(self) -> tuple[int, int]:
        """Pictures that could not be judged, before and after."""
        everything = [pair for pairs in self.pairs.values() for pair in pairs]
        after = sum(bool(pair.after and pair.after.undecided) for pair in everything)
        return sum(bool(pair.before.undecided) for pair in everything), after

    @property
    def garbled(self) -> tuple[tuple[Case, int], ...]:
        """Cases whose picture shows nothing the detector knows, with the side (0 or 1), in a fixed order."""
        found = [
            (pair.case, side)
            for pairs in self.pairs.values()
            for pair in pairs
            for side, verdict in enumerate((pair.before, pair.after))
            if verdict is not None and verdict.garbled
        ]
        return tuple(sorted(found, key=lambda item: (item[0].group, item[0].prompt, item[0].seed, item[1])))

    def table(self) -> str:
        """Everything measured as text for a terminal."""
        return result_table(self)

    def to_json(self) -> str:
        """Everything measured; equal inputs give equal text (no times, no absolute paths, rounded numbers)."""
        return json.dumps(_json(self), sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    def save(self, path: Path | str) -> Path:
        """Write :meth:`to_json` to a file, whole or not at all."""
        return write_bytes(Path(path), self.to_json().encode())


def _json(result: BenchResult) -> dict[str, Any]:
    scores = result.scores
    return {
        "schema": SCHEMA,
        "target": result.target,
        "base": {"hash": result.model},
        "membrane": {"hash": result.membrane},
        "sampler": asdict(result.sampler),
        "detector": {
            "fingerprint": result.detector,
            "tpr": _rate(scores.hit_rate),
            "fpr": _rate(scores.alarm_rate),
        },
        "groups": {group.name: _group(result, group) for group in result.groups},
        "axes": {name: _estimate(value) for name, value in scores.axes.items()},
        "removal": {name: _estimate(value) for name, value in scores.removals.items()},
        "score": {
            "profile": result.weights,
            "axes_used": axes_text(scores.axes),
            "withheld": scores.withheld,
            **(_estimate(scores.total) if scores.total else {}),
        },
        "most_damaged": [
            {"name": d.name, "kept": round(d.kept, 3), "before": _rate(d.before), "after": _rate(d.after)}
            for d in scores.most_damaged
        ],
        "undecided": list(result.undecided),
        "garbled": [{"group": c.group, "prompt": c.prompt, "seed": c.seed, "model": s} for c, s in result.garbled],
        "records_file": FILE_NAME,
    }


def _group(result: BenchResult, group: PromptGroup) -> dict[str, Any]:
    inside = result.clusters[group.name]
    content: dict[str, Any] = {
        "title": group.title,
        "role": group.role,
        "attribute": group.attribute,
        "pictures": len(group.cases),
        "testable": result.testable(group.name),
        "rates": {name: _both(group, rates(inside, name)) for name in attributes(inside)},
    }
    content["labels"] = {
        label: _both(group, rates(inside, group.attribute, label)) for label in labels(inside, group.attribute)
    }
    return content


def _both(group: PromptGroup, pair: tuple[Rate, Rate]) -> dict[str, Any]:
    before, after = pair
    return {"before": _rate(before)} if group.base_only else {"before": _rate(before), "after": _rate(after)}


def _rate(rate: Rate) -> dict[str, Any]:
    return {"k": rate.k, "n": rate.n, "ci": [round(rate.low, 4), round(rate.high, 4)]}


def _estimate(value: Estimate) -> dict[str, Any]:
    ends = None if value.low is None or value.high is None else [round(value.low, 3), round(value.high, 3)]
    return {"value": round(value.value, 3), "ci": ends}

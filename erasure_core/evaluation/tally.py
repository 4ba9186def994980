"""Counting: from verdicts on pairs of pictures to hits per prompt, the units that intervals are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .detectors import Verdict
from .groups import NEIGHBOUR, REROLL, UNRELATED, Case, PromptGroup
from .intervals import Rate


@dataclass(frozen=True)
class Pair:
    """One prompt and seed, judged without and with the membrane.

    ``after`` is None in groups drawn by the model alone. ``moved`` is the distance between the two pictures,
    ``spread`` those from the first picture to other seeds of its prompt; both only where stability is measured.
    """

    case: Case
    before: Verdict
    after: Verdict | None
    moved: float | None = None
    spread: tuple[float, ...] = ()

    @property
    def decided(self) -> bool:
        """Whether every picture of the pair could be judged; only then it counts in rates."""
        return not self.before.undecided and not (self.after and self.after.undecided)


@dataclass(frozen=True)
class Cluster:
    """What one prompt gave: hits by (attribute, label) as (before, after, pictures), false alarms, distances."""

    hits: Mapping[tuple[str, str], tuple[int, int, int]]
    alarms: tuple[int, int]
    moved: tuple[float, ...]
    spread: tuple[float, ...]


Clusters = Mapping[str, Sequence[Cluster]]


def clusters_of(group: PromptGroup, pairs: Iterable[Pair], target: str) -> list[Cluster]:
    """The group's pairs, counted per prompt; in the order of the prompts' text, so that no order of work shows."""
    by_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.case.prompt, []).append(pair)
    return [_count(group, by_prompt[prompt], target) for prompt in sorted(by_prompt)]


def _count(group: PromptGroup, pairs: Sequence[Pair], target: str) -> Cluster:
    hits: dict[tuple[str, str], tuple[int, int, int]] = {}
    judged = [pair for pair in pairs if pair.decided]
    for pair in judged:
        for attribute, label in pair.case.expect.items():
            before, after, n = hits.get((attribute, label), (0, 0, 0))
            shown = pair.after is not None and pair.after.labels[attribute] == label
            hits[attribute, label] = (before + (pair.before.labels[attribute] == label), after + shown, n + 1)
    alarms = (0, 0)
    if group.role in (NEIGHBOUR, UNRELATED):
        alarms = (sum(pair.before.labels[group.attribute] == target for pair in judged), len(judged))
    ordered = sorted(pairs, key=lambda pair: pair.case.seed)
    moved = tuple(pair.moved for pair in ordered if pair.moved is not None)
    return Cluster(hits, alarms, moved, tuple(value for pair in ordered for value in pair.spread))


def rates(clusters: Iterable[Cluster], attribute: str, label: str | None = None) -> tuple[Rate, Rate]:
    """Pictures that show what was expected of ``attribute`` (of one label, or of all), before and after."""
    before = after = n = 0
    for cluster in clusters:
        for (name, expected), (first, second, count) in cluster.hits.items():
            if name == attribute and label in (None, expected):
                before, after, n = before + first, after + second, n + count
    return Rate(before, n), Rate(after, n)


def labels(clusters: Iterable[Cluster], attribute: str) -> list[str]:
    """The labels of ``attribute`` that were expected anywhere, sorted."""
    return sorted({label for cluster in clusters for name, label in cluster.hits if name == attribute})


def attributes(clusters: Iterable[Cluster]) -> list[str]:
    """The attributes that were expected anywhere, sorted."""
    return sorted({name for cluster in clusters for name, _ in cluster.hits})


def stability_groups(groups: Iterable[PromptGroup]) -> list[PromptGroup]:
    """The groups whose pictures should not change, and their second draws."""
    return [group for group in groups if group.role in (UNRELATED, REROLL)]

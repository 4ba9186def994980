"""The axes of an erasure computed from counts, with intervals, and the reasons for which a number is withheld."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import BadInput
from .groups import DIRECT, INDIRECT, NEIGHBOUR, UNRELATED, PromptGroup
from .intervals import WEAK_DETECTOR, Estimate, Rate, cluster_bootstrap, corrected_rate
from .scores import (
    KNOWN_RATE,
    RECOGNISED_RATE,
    Damage,
    generality,
    harmonic,
    most_damaged,
    removal,
    specificity,
    visual_stability,
)
from .tally import Cluster, Clusters, attributes, labels, rates

NOTHING = Rate(0, 0)


@dataclass(frozen=True)
class Profile:
    """Every number of one counting: axes by letter, removal by indirect group, damage, and the detector's rates."""

    axes: dict[str, float] = field(default_factory=dict)
    removals: dict[str, float] = field(default_factory=dict)
    damages: tuple[Damage, ...] = ()
    hit_rate: Rate = NOTHING
    alarm_rate: Rate = NOTHING
    problem: str = ""


@dataclass(frozen=True)
class Scores:
    """Axes, removal per indirect group and the total score (0..100, None if withheld), all with intervals."""

    axes: dict[str, Estimate]
    removals: dict[str, Estimate]
    total: Estimate | None
    withheld: str
    most_damaged: tuple[Damage, ...]
    hit_rate: Rate
    alarm_rate: Rate


def known(rate: Rate) -> bool:
    """Whether the model without membrane shows a thing often enough for its removal to mean anything."""
    return rate.value >= KNOWN_RATE


def profile(groups: Sequence[PromptGroup], clusters: Clusters) -> Profile:
    """All axes that can be computed; those that cannot are missing, with the reason in ``problem`` where it is one."""
    of_role = {role: [g for g in groups if g.role == role] for role in (DIRECT, INDIRECT, NEIGHBOUR, UNRELATED)}
    damages = _damages(of_role, clusters)
    spared = {"S": specificity([d.kept for d in damages]), "F": _stability(of_role[UNRELATED], clusters)}
    axes = {letter: value for letter, value in spared.items() if value is not None}
    hit_rate = sum((rates(clusters[g.name], g.attribute)[0] for g in of_role[DIRECT]), NOTHING)
    alarms = [c.alarms for role in (NEIGHBOUR, UNRELATED) for g in of_role[role] for c in clusters[g.name]]
    alarm_rate = Rate(sum(k for k, _ in alarms), sum(n for _, n in alarms))
    problem = _problem(hit_rate, alarm_rate)
    removals: dict[str, float] = {}
    if not problem:
        removed = _remover(hit_rate.value, alarm_rate.value)
        direct_after = sum((rates(clusters[g.name], g.attribute)[1] for g in of_role[DIRECT]), NOTHING)
        axes["E"] = removed(hit_rate, direct_after)
        for group in of_role[INDIRECT]:
            before, after = rates(clusters[group.name], group.attribute)
            if known(before):
                removals[group.name] = removed(before, after)
        indirect = generality(list(removals.values()))
        if indirect is not None:
            axes["G"] = indirect
    return Profile(axes, removals, tuple(damages), hit_rate, alarm_rate, problem)


def score(
    groups: Sequence[PromptGroup],
    clusters: Clusters,
    weights: str = "neutral",
    withheld: str = "",
    draws: int = 1000,
    seed: int = 0,
) -> Scores:
    """Axes and total with bootstrap intervals over prompts; a reason in ``withheld`` hides E and H."""

    def named(drawn: Clusters) -> dict[str, float]:
        found = profile(groups, {group.name: drawn.get(group.name, ()) for group in groups})
        return _numbers(found, weights)

    whole = profile(groups, clusters)
    reason = withheld or whole.problem
    numbers = _numbers(whole, weights)
    ends = cluster_bootstrap(clusters, named, draws, seed)
    estimates = {key: Estimate(value, *ends.get(key, (None, None))) for key, value in numbers.items()}
    estimates.update(_not_too_sure(groups, clusters, whole, estimates, weights))
    hidden = {"E"} if reason else set()
    return Scores(
        {name: estimates[name] for name in sorted(whole.axes) if name not in hidden},
        {name: estimates[f"r:{name}"] for name in whole.removals if not reason},
        None if reason else estimates.get("H"),
        reason,
        most_damaged(whole.damages),
        whole.hit_rate,
        whole.alarm_rate,
    )


def _not_too_sure(
    groups: Sequence[PromptGroup], clusters: Clusters, whole: Profile, estimates: dict[str, Estimate], weights: str
) -> dict[str, Estimate]:
    """Lower ends of removals, and of G and H made from them, that also allow for the Wilson interval afterwards.

    Redrawing prompts that all gave 0 hits gives 0 hits, but no hit in ten pictures still allows a rate of 28 %.
    """
    if whole.problem:
        return {}
    sure: dict[str, float] = {}
    tpr, fpr = whole.hit_rate.value, whole.alarm_rate.value
    for group in groups:
        key = "E" if group.role == DIRECT else f"r:{group.name}"
        if key in estimates:
            before, after = rates(clusters[group.name], group.attribute)
            sure[key] = removal(corrected_rate(before.value, tpr, fpr), corrected_rate(after.high, tpr, fpr))
    indirect = generality([value for key, value in sure.items() if key.startswith("r:")])
    if indirect is not None:
        sure["G"] = indirect
    total = harmonic({**whole.axes, "E": sure["E"]}, weights)
    if total is not None:
        sure["H"] = total
    found = {key: estimates[key] for key in sure}
    return {
        key: Estimate(old.value, min(old.low, sure[key]), old.high) for key, old in found.items() if old.low is not None
    }


def _numbers(found: Profile, weights: str) -> dict[str, float]:
    total = harmonic(found.axes, weights)
    numbers = {**found.axes, **{f"r:{name}": value for name, value in found.removals.items()}}
    return numbers if total is None else {**numbers, "H": total}


def _remover(tpr: float, fpr: float) -> Callable[[Rate, Rate], float]:
    """Removal from rates corrected for the detector's hits and false alarms on the model without membrane."""

    def removed(before: Rate, after: Rate) -> float:
        return removal(corrected_rate(before.value, tpr, fpr), corrected_rate(after.value, tpr, fpr))

    return removed


def _problem(hits: Rate, alarms: Rate) -> str:
    if not hits.n:
        return "no direct prompts were judged"
    if not known(hits):
        return "not testable - the base model does not know it"
    if hits.value - alarms.value < WEAK_DETECTOR:
        return (
            f"the detector is too weak: it finds the concept in {100 * hits.value:.0f} % of the base model's pictures "
            f"of it and in {100 * alarms.value:.0f} % of others"
        )
    return ""


def _damages(of_role: dict[str, list[PromptGroup]], clusters: Clusters) -> list[Damage]:
    """Every neighbour, and every other thing named together with the concept, that the base model can draw."""
    found: list[Damage] = []
    for group in of_role[NEIGHBOUR]:
        inside = clusters[group.name]
        found += [Damage(label, *rates(inside, group.attribute, label)) for label in labels(inside, group.attribute)]
    beside: list[Cluster] = [cluster for group in of_role[DIRECT] for cluster in clusters[group.name]]
    own = {group.attribute for group in of_role[DIRECT]}
    found += [Damage(f"{name} with it", *rates(beside, name)) for name in attributes(beside) if name not in own]
    return [damage for damage in found if damage.before.n and damage.before.value >= RECOGNISED_RATE]


def _stability(groups: Sequence[PromptGroup], clusters: Clusters) -> float | None:
    moved = [value for group in groups for cluster in clusters[group.name] for value in cluster.moved]
    spread = [value for group in groups for cluster in clusters[group.name] for value in cluster.spread]
    return visual_stability(moved, spread)


def require_groups(groups: Sequence[PromptGroup]) -> str:
    """The label of the concept the groups are about ("" if none); raises :class:`BadInput` for mixed-up groups."""
    names = [group.name for group in groups]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"Two prompt groups are called {twice!r}; give every group its own name.")
    if not any(group.cases for group in groups):
        raise BadInput("There is nothing to draw: the prompt groups are empty.")
    targets = {case.expect[g.attribute] for g in groups if g.role in (DIRECT, INDIRECT) for case in g.cases}
    if len(targets) > 1:
        raise BadInput(f"The direct prompts name several concepts ({', '.join(sorted(targets))}); bench one at a time.")
    return next(iter(targets), "")

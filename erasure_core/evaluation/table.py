"""The result of a bench as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .groups import DIRECT, INDIRECT, LEFT_OUT, NEIGHBOUR, REROLL, UNRELATED, PromptGroup
from .intervals import Rate
from .scores import AXIS_NAMES, RECOGNISED_RATE, axes_text
from .tally import attributes, labels

if TYPE_CHECKING:
    from .result import BenchResult

UNKNOWN = "not testable - the base model does not know it"
_INDENT = "  "
Line = tuple[str, str, str]


def result_table(result: BenchResult) -> str:
    """Rates before and after on the same prompts and seeds, then the scores; 95 % intervals in brackets."""
    lines: list[Line] = [("", "before", "after")]
    for roles, title in (
        ((DIRECT, LEFT_OUT, INDIRECT), f"shows '{result.target}' (should go)" if result.target else ""),
        ((NEIGHBOUR,), "neighbours (should stay)"),
    ):
        found = [line for group in result.groups if group.role in roles for line in _concept_lines(result, group)]
        if found:
            lines += [(title, "", ""), *found]
    beside = [line for group in result.groups for line in _beside_lines(result, group)]
    if beside:
        lines += [("everything else (should stay)", "", ""), *beside]
    return "\n".join([*_columns(lines), "", *_scores(result), *_remarks(result)]) + "\n"


def _columns(lines: list[Line]) -> list[str]:
    width = max(len(name) for name, _, _ in lines) + 2
    second = max(len(before) for _, before, _ in lines) + 3
    return [f"{name:<{width}}{before:<{second}}{after}".rstrip() for name, before, after in lines]


def _concept_lines(result: BenchResult, group: PromptGroup) -> list[Line]:
    """The concept's own attribute: one line per group, and one per neighbour."""
    before, after = result.rate(group.name)
    if not group.cases:
        return []
    if group.role == INDIRECT and not result.testable(group.name):
        return [(_INDENT + group.title, str(before), UNKNOWN)]
    if group.role == NEIGHBOUR:
        names = labels(result.clusters[group.name], group.attribute)
        each = [_neighbour(label, *result.rate(group.name, label=label)) for label in names]
        return [*each, _line("all neighbours", before, after)]
    return [_line(group.title, before, None if group.base_only else after)]


def _beside_lines(result: BenchResult, group: PromptGroup) -> list[Line]:
    """Attributes a prompt names beside the concept, and all attributes of unrelated prompts."""
    if group.role in (LEFT_OUT, REROLL, INDIRECT):
        return []
    named = attributes(result.clusters[group.name])
    own = () if group.role == UNRELATED else (group.attribute,)
    title = f"on {group.title}" if group.role == DIRECT else f"of {group.title}"
    return [_line(f"{name} {title}", *result.rate(group.name, name)) for name in named if name not in own]


def _neighbour(name: str, before: Rate, after: Rate) -> Line:
    """A neighbour that the base model cannot draw says nothing about damage, and the line says so."""
    line = _line(name, before, after)
    return line if before.value >= RECOGNISED_RATE else (*line[:2], f"{line[2]}  not in S: the base model misses it")


def _line(name: str, before: Rate, after: Rate | None) -> Line:
    return _INDENT + name, str(before), "" if after is None else str(after)


def _scores(result: BenchResult) -> list[str]:
    """Axes 0..1, then the total."""
    scores = result.scores
    lines = [
        f"{letter} {AXIS_NAMES[letter]:<13}{scores.axes[letter].text()}" for letter in "EGSF" if letter in scores.axes
    ]
    if scores.removals:
        parts = (f"{result.group(name).title} {100 * value.value:.0f} %" for name, value in scores.removals.items())
        lines.append(f"  removed from {', '.join(parts)}")
    if "F" in scores.axes:
        drift = 1 - scores.axes["F"].value
        lines.append(f"  drift of unrelated pictures {drift:.3f} (0 = same pixels, 1 = as different as another seed)")
    if scores.total is not None:
        lines.append(f"H {'total':<13}{scores.total.text(digits=0)} of 100, {axes_text(scores.axes)}, {result.weights}")
    elif scores.withheld:
        lines.append(f"E and H are withheld: {scores.withheld}.")
    return lines


def _remarks(result: BenchResult) -> list[str]:
    lines = []
    if result.scores.most_damaged:
        hurt = ", ".join(f"{d.name} keeps {100 * d.kept:.0f} %" for d in result.scores.most_damaged)
        lines.append(f"Most damaged: {hurt}.")
    before, after = result.undecided
    if before or after:
        lines.append(f"Could not be judged: {before} before, {after} after; they count nowhere.")
    sides = [side for _, side in result.garbled]
    if sides:
        lines.append(f"Garbled pictures: {sides.count(0)} before, {sides.count(1)} after; they show no concept at all.")
    return lines

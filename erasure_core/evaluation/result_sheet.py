"""The contact sheet of a bench: its pictures in sections, each under the rates it illustrates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .detectors import GARBLED, Verdict
from .groups import DIRECT, INDIRECT, NEIGHBOUR, PromptGroup
from .result import BenchResult
from .scores import axes_text
from .sheet import TILES, Section, Shown, Tile, contact_sheet
from .tally import Pair, attributes

LONG, SHORT = 2 * TILES, TILES


def result_sheet(result: BenchResult, path: Path | str, title: str = "", footer: Sequence[str] = ()) -> Path:
    """Write a PNG of eight pairs of the concept and of its neighbours and four of each other group.

    Of each prompt (of each neighbour, if there are many) the first seed is shown, good or bad. A tick or a cross
    stands only where the model alone did what the prompt says. ``footer`` lines come below the scores.
    """
    title = title or (f"Erasing “{result.target}”" if result.target else "Before and after")
    sampler = result.sampler
    subtitle = (
        f"left without, right with the membrane, same prompt and seed · {sampler.steps} steps, guidance {sampler.cfg:g}"
        " · below each picture what a detector reads in it"
    )
    sections = [_section(result, group) for group in result.groups if not group.base_only]
    return contact_sheet([s for s in sections if s.tiles], title, subtitle, path, [*_summary(result), *footer])


def _section(result: BenchResult, group: PromptGroup) -> Section:
    tiles = []
    for pair in _chosen(group, result.pairs[group.name]):
        loaded = [result.pictures.load(result.shots[group.name, pair.case.prompt, pair.case.seed, i]) for i in (0, 1)]
        before, after = loaded
        if before is None or after is None or pair.after is None:
            continue  # a picture was deleted behind our back: the rates still stand in the heading
        wished = _as_wished(group, pair, pair.after)
        shown = Shown(before, _reading(pair, pair.before)), Shown(after, _reading(pair, pair.after), wished)
        tiles.append(Tile(pair.case.prompt, *shown))
    return Section(_heading(result, group), _note(result, group), tiles)


def _chosen(group: PromptGroup, pairs: Iterable[Pair]) -> list[Pair]:
    """The first seed of each prompt; if those are too many, of each label the concept's attribute may have."""
    by_prompt: dict[str, Pair] = {}
    by_label: dict[str, Pair] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.case.prompt, pair)
        by_label.setdefault(pair.case.expect.get(group.attribute, ""), pair)
    count = LONG if group.role in (DIRECT, NEIGHBOUR) else SHORT
    found = by_label if group.role == NEIGHBOUR and len(by_prompt) > count else by_prompt
    return list(found.values())[:count]


def _as_wished(group: PromptGroup, pair: Pair, after: Verdict) -> bool | None:
    """Whether the concept is gone and everything else the prompt names still there.

    None if that cannot be said: nothing was asked for or judged, or the model alone did not draw it either.
    """
    expect = pair.case.expect
    if not expect or not pair.decided or any(pair.before.labels[name] != label for name, label in expect.items()):
        return None
    concept = group.attribute if group.role in (DIRECT, INDIRECT) else ""
    return all((after.labels[name] == label) != (name == concept) for name, label in expect.items())


def _reading(pair: Pair, verdict: Verdict) -> str:
    """``striped red square on blue``: the labels of what the prompt names, last named first."""
    if verdict.undecided:
        return "not judged"
    named = [name for name in verdict.labels if name in pair.case.expect] or list(verdict.labels)
    if all(verdict.labels[name] == GARBLED for name in named):
        return GARBLED
    place = f" on {verdict.labels['background']}" if "background" in named else ""
    return " ".join(verdict.labels[name] for name in reversed(named) if name != "background") + place


def _heading(result: BenchResult, group: PromptGroup) -> str:
    if group.role == DIRECT:
        return f"“{group.title}” named: should go"
    if group.role == INDIRECT:
        return f"“{result.target}”, {group.title}: should go"
    return f"{group.title.capitalize()}: should stay"


def _note(result: BenchResult, group: PromptGroup) -> str:
    """The rates of the section, each as hits before and after."""
    named = attributes(result.clusters[group.name])
    if group.role in (DIRECT, INDIRECT, NEIGHBOUR):
        named = [group.attribute, *(name for name in named if name != group.attribute)]
    words = {group.attribute: result.target} if group.role in (DIRECT, INDIRECT) else {}
    parts = []
    for name in named:
        before, after = result.rate(group.name, name)
        parts.append(f"{words.get(name, name)} {before.k}/{before.n} → {after.k}/{after.n}")
    if not result.testable(group.name):
        parts.append("not testable: the base model does not know it")
    return " · ".join(parts)


def _summary(result: BenchResult) -> list[str]:
    scores = result.scores
    if scores.total is None:
        return [f"No total score: {scores.withheld}."] if scores.withheld else []
    words = {
        "E": "gone when named",
        "G": "gone when paraphrased",
        "S": "neighbours intact",
        "F": "other pictures unmoved",
    }
    parts = [f"{words[name]} {100 * scores.axes[name].value:.0f} %" for name in words if name in scores.axes]
    return [" · ".join(parts), f"Score {scores.total.text(digits=0)} of 100 ({axes_text(scores.axes)})"]

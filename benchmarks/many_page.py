"""The records of benchmarks/many.py as a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure_core.evaluation.axes import known
from erasure_core.evaluation.intervals import Rate
from erasure_core.evaluation.scores import KNOWN_RATE

LEFT_OUT = Path(__file__).resolve().parent / "results" / "uce_demo.json"
"""Where ``benchmarks/uce_demo.py`` has counted each shape in pictures of prompts that name no shape."""
HEAD = """\
# Several concepts at once on the bundled model

Made by `benchmarks/many.py` from `benchmarks/results/many.json`: UCE, every concept onto an anchor of its kind. Each
rate is k/n with its 95 % Wilson interval; before and after are the same prompts and seeds. Kept: after, in percent of
before. The partner is the colour beside an erased shape or style and the shape beside an erased colour, where it is not
erased itself.
"""
PICTURES = """\
![Pictures before, with the seven membranes solved jointly, and with the same seven summed](many.jpg)

Each prompt's first seed, good or bad; a green frame where a detector reads what is wanted, a red one where not.
"""


def page(records: Mapping[str, Any]) -> str:
    """The page, one section a setting."""
    parts = [HEAD]
    if {f"7 concepts, {how}" for how in ("joint", "summed")} <= records.keys():
        parts.append(PICTURES)
    return "\n".join([*parts, *(_section(name, record) for name, record in records.items())])


def _section(name: str, record: Mapping[str, Any]) -> str:
    erased = ", ".join(f"{target} -> {anchor}" for target, anchor in record["concepts"].items())
    lines = [
        f"## {name}",
        "",
        f"{erased}. {record['preserved phrases']} preserved phrases; {_options(record['options'])}.",
        "",
        "| target | before | after | anchor drawn instead | partner beside it kept |",
        "|---|---|---|---|---|",
    ]
    for target, found in record["targets"].items():
        partner = next(rate for what, rate in found.items() if what.endswith(" kept"))
        became = Rate(*found["anchor shown"])
        lines.append(f"| {target} | {_two(found['shown'])} | {became} | {_kept(partner)} |")
    if len(record["targets"]) > 1:
        lines.append(f"| all | {_two(_added([found['shown'] for found in record['targets'].values()]))} | | |")
    if record["unseen"]:
        unnamed = left_out(record["concepts"])
        lines += ["", "| target in words never given | before | after | |", "|---|---|---|---|"]
        for title, rate in record["unseen"].items():
            lines.append(f"| {title} | {_two(rate)} | {_doubt(rate, unnamed)} |")
        lines.append(f"| no shape named at all | {unnamed} | | what the model draws by itself |")
    lines += ["", "| what stays | read | before | after | kept |", "|---|---|---|---|---|"]
    for group, found in record["staying"].items():
        for what, rate in found.items():
            if what != "labels":
                lines.append(f"| {_title(group, found['labels'])} | {what} | {_two(rate)} | {_kept(rate)} |")
    for what in ("shape", "colour", "style"):
        every = [found[what] for found in record["staying"].values() if what in found]
        if len(every) > 1:
            lines.append(f"| all of these | {what} | {_two(_added(every))} | {_kept(_added(every))} |")
    return "\n".join(lines) + "\n"


def _options(options: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in options.items()) or "our defaults"


def _title(group: str, labels: Sequence[str]) -> str:
    shapes = ", ".join(labels)
    return {
        "near": f"shapes at graph distance 1 ({shapes})",
        "far": f"shapes at distance 2 or more ({shapes})",
        "plain": "colours and shapes that stay",
    }.get(group, f"{group}, on colours and shapes that stay")


def _added(rates: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    return {side: [sum(rate[side][i] for rate in rates) for i in (0, 1)] for side in ("before", "after")}


def _two(rate: Mapping[str, Sequence[int]]) -> str:
    return f"{Rate(*rate['before'])} | {Rate(*rate['after'])}"


def _kept(rate: Mapping[str, Sequence[int]]) -> str:
    return f"{100 * rate['after'][0] / max(1, rate['before'][0]):.1f} %"


def left_out(targets: Iterable[str]) -> Rate:
    """How often the model alone draws the targets when no shape is named; not measured for other concepts."""
    records = json.loads(LEFT_OUT.read_text(encoding="utf-8"))["records"]
    counted = [records.get(f"{target}: anchor", {"left out": [0, 0]})["left out"] for target in targets]
    return Rate(sum(k for k, _ in counted), sum(n for _, n in counted))


def _doubt(rate: Mapping[str, Sequence[int]], unnamed: Rate) -> str:
    before = Rate(*rate["before"])
    if not known(before):
        return f"not testable: the model alone draws it in less than {100 * KNOWN_RATE:.0f} %"
    if before.low <= unnamed.value:
        return "not testable: the model draws it as often when no shape is named"
    return ""

"""The records of benchmarks/guidance.py as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erasure_core.evaluation.intervals import Rate

Record = Mapping[str, Any]
HEAD = """\
# Guidance and negatives on the bundled model

Made by `benchmarks/guidance.py` from `benchmarks/results/guidance.json`: every method away from one shape, 20 steps,
128 pictures of each set, the same prompts and noise without and with the method; settings were chosen on other noise.
Rates are k/n with their 95 % Wilson interval.

- **target**: prompts that name the shape with a colour; **of before**: relative to the row "none".
- **prompt = concept**: the prompt is the concept's own text.
- **neighbours**: prompts of the other seven shapes; **kept**: relative to "none", their shape and their colour.
- **garbled**: target pictures in which the detector sees no shape at all; a method that only destroys has many.
- **drift**: mean change of a neighbour's pixels, 0 to 1; in the row "none" that of drawing it from other noise.
- **evaluations**: rows that the model computes, relative to "none"; **time**: processor time of sampling on one thread,
  the same; **fit**: seconds spent once on the concept. The machine did other work as well.
"""
_COLUMNS = (
    "method", "target", "of before", "prompt = concept", "neighbours", "kept", "colour kept", "garbled", "drift",
    "evaluations", "time", "fit",
)  # fmt: skip
NEGATIVE, NEGATION = "negative prompt", "negation"


def page(records: Mapping[str, Record], order: Sequence[str]) -> str:
    """A section for each shape and guidance scale; methods in the given ``order``, those not drawn yet left out."""
    parts = [HEAD]
    for setting in dict.fromkeys(key.split(": ")[0] for key in records):
        found = {name: records[f"{setting}: {name}"] for name in ("none", *order) if f"{setting}: {name}" in records}
        if "none" in found:
            parts.append("\n".join([f"## {setting[0].upper()}{setting[1:]}", "", *_verdict(found), *_table(found), ""]))
    return "\n".join(parts)


def _verdict(found: Mapping[str, Record]) -> list[str]:
    """What a prompt that is the concept shows of a negative prompt and of negation."""
    if not {NEGATIVE, NEGATION} <= found.keys() or "inactive" in found[NEGATIVE]:
        return []
    before, replaced, negated = (Rate(*found[name]["bare"]["shape"]) for name in ("none", NEGATIVE, NEGATION))
    return [
        f"Where the prompt is the concept, {before} show it. A negative prompt leaves {replaced}, negation {negated}.",
        "",
    ]


def _table(found: Mapping[str, Record]) -> list[str]:
    rows = [_row(name, record, found["none"]) for name, record in found.items()]
    idle = [record["inactive"] for record in found.values() if "inactive" in record]
    lines = [
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
        *("| " + " | ".join(r) + " |" for r in rows),
    ]
    return [*lines, *(["", f"\\* {idle[0]}"] if idle else [])]


def _row(name: str, record: Record, base: Record) -> list[str]:
    target, near = record["target"], record["neighbours"]
    return [
        name + (" \\*" if "inactive" in record else ""),
        str(Rate(*target["shape"])),
        f"{target['shape'][0] / max(1, base['target']['shape'][0]):.2f}",
        str(Rate(*record["bare"]["shape"])),
        str(Rate(*near["shape"])),
        _kept(near["shape"], base["neighbours"]["shape"]),
        _kept(near["colour"], base["neighbours"]["colour"]),
        f"{100 * Rate(*target['garbled']).value:.0f} %",
        f"{record['drift']:.3f}",
        f"{record['evaluations']:.2f}",
        f"{record['ms per picture'] / record['ms per picture without']:.2f}",
        f"{record['s to fit']:.1f} s" if record["s to fit"] else "",
    ]


def _kept(after: Sequence[int], before: Sequence[int]) -> str:
    return f"{100 * after[0] / max(1, before[0]):.1f} %"

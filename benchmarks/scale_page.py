"""The page of scale.py's records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
SHAPES, COUNTS = ("SD1.5", "SDXL"), ("1", "10", "100", "1000")
METHODS = ("uce", "time", "rece", "mace", "trce", "realera", "crce", "leace", "speed")
HEAD = """\
# Closed-form erasing of 1 to 1000 concepts

Made by `benchmarks/scale.py` from `benchmarks/results/scale.json`. Processor time of one thread; memory is the most
that the process held above imports and the weights. Each method is called as a user calls it, with our defaults:
generated names of objects, persons, characters and styles, and ten phrases that stay for each concept, at most 1000
(SPEED: at most 100, since every phrase takes directions from the null space that it works in). Matrices have the names
and shapes of the real ones and random values; rows are random and causal, see `benchmarks/scale_model.py`. CRCE gets
three other names and two look-alikes for each concept.
"""


def page(data: Mapping[str, Any]) -> str:
    """The records as a Markdown page."""
    records: Mapping[str, Record] = data["records"]
    host = data["machine"]
    lines = [HEAD, f"{host['cpu']}, torch {host['torch']}, Python {host['python']}.", ""]
    lines += ["## Text encoding, apart from everything below", ""]
    lines += _table(
        [
            "",
            "text encoding, seconds per 100 phrases",
            "sum of W^T W, seconds, once for a model",
            "to recognise the model",
        ],
        [
            [
                shapes,
                _cell(records, f"encoding, {shapes}", lambda r: f"{r['seconds per 100 phrases']:g}"),
                _cell(records, f"metric, {shapes}", lambda r: f"{r['seconds']:g} ({r['peak MB']} MB)"),
                _cell(records, f"metric, {shapes}", lambda r: f"{r['seconds to recognise']:g}"),
            ]
            for shapes in SHAPES
        ],
    )
    lines += ["Encoders of the real sizes with random weights, float32, 77 tokens a phrase.", ""]
    for shapes in SHAPES:
        lines += [f"## {shapes}: seconds without text encoding, and memory", ""]
        lines += ["Seconds of the whole call, in brackets from rows to (D, Y) alone; then the most memory.", ""]
        lines += _methods(
            records, shapes, lambda r: f"{_s(r, 'all but encoding')} ({_s(r, 'solve')}), {r['peak MB']} MB"
        )
        lines += [f"{shapes}: rows to erase + rows that stay, and texts to encode.", ""]
        lines += _methods(records, shapes, lambda r: f"{r['rows'][0]:,} + {r['rows'][1]:,}; {r['texts']:,} texts")
    for title, name, columns in _OTHERS:
        lines += [f"## {title}", ""]
        lines += _table(["", *columns, "peak MB"], _others(records, name, columns))
    lines += ["## The published loops beside our solve of the same random rows", ""]
    lines += [
        "Seconds of the loop / of ours = how many times faster; what was extrapolated is marked with *, how, says "
        "`benchmarks/scale_loops.py`. Erased + preserved rows; time preserves nothing.",
        "",
    ]
    sizes = ("10 + 100", "100 + 1000")
    heads = [f"{shapes}, {size}" for shapes in SHAPES for size in sizes]
    rows = [
        [
            m,
            *(
                _cell(records, f"loop {m}, {shapes}", lambda r, s=size: _ratio(r[s]))
                for shapes in SHAPES
                for size in sizes
            ),
        ]
        for m in METHODS
        if f"loop {m}, {SHAPES[0]}" in records
    ]
    return "\n".join(lines + _table(["", *heads], rows))


_OTHERS = (
    (
        "Joining erasures of one concept each, and taking one out",
        "join",
        ("join, seconds", "conflicts, seconds", "subtract, seconds"),
    ),
    (
        "Adding one more concept to as many, and taking it away",
        "stream",
        ("add, seconds", "remove, seconds", "afresh, seconds", "all one by one, seconds"),
    ),
    (
        "The firewall with as many rules of two phrases",
        "look-up",
        ("by words, ms", "by vectors, ms", "map of one concept, ms"),
    ),
)


def _methods(records: Mapping[str, Record], shapes: str, text: Callable[[Record], str]) -> list[str]:
    rows = [[m, *(_cell(records, f"{m}, {shapes}, {count}", text) for count in COUNTS)] for m in METHODS]
    return _table(["", *(f"{count} concepts" if count != "1" else "1 concept" for count in COUNTS)], rows)


def _others(records: Mapping[str, Record], name: str, columns: Sequence[str]) -> list[list[str]]:
    found = []
    for shapes in SHAPES:
        for count in COUNTS:
            key = f"{name}, {shapes}, {count}"
            values = [_cell(records, key, lambda r, c=column: f"{r[c]:g}" if c in r else "") for column in columns]
            found.append([f"{shapes}, {count}", *values, _cell(records, key, lambda r: str(r["peak MB"]))])
    return found


def _cell(records: Mapping[str, Record], name: str, text: Callable[[Record], str]) -> str:
    record = records.get(name)
    if record is None:
        return "-"
    return f"failed: {record['failed']}" if "failed" in record else text(record)


def _s(record: Record, stage: str) -> str:
    return f"{record['seconds'].get(stage, 0.0):.3g}"


def _ratio(record: Record) -> str:
    mark = "*" if record["extrapolated"] else ""
    return f"{record['seconds']:.3g}{mark} / {record['ours']:.3g} = {record['times']:,} x"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]

"""The page of scale.py's records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
RESULTS = Path(__file__).parent / "results"
SHAPES, COUNTS = ("SD1.5", "SDXL"), ("1", "10", "100", "1000")
METHODS = ("uce", "time", "rece", "mace", "trce", "realera", "crce", "leace", "speed")
HEAD = """\
# Closed-form erasing of 1 to 1000 concepts

Made by `benchmarks/scale.py` from `benchmarks/results/scale.json`. Processor time of one thread; memory is the most
that the process held above its imports and the model's weights. Each method is called as a user calls it, with our
defaults: generated names of objects, persons, characters and styles, and ten phrases that stay for each concept, at
most 1000 (SPEED: at most 100, since every phrase takes directions from the null space that it works in). Matrices have
the names and shapes of the real ones and random values; rows are random and causal, see `benchmarks/scale_model.py`.
CRCE gets three other names and two look-alikes for each concept. `-`: not measured yet; `scale.py` goes on there.
"""
ENCODING = """\
Encoders of the real sizes with random weights, float32, 77 tokens a phrase, one thread. All tables below leave it out;
how many texts each method has encoded stands in its second table, with the time that they would take here. W^T W
summed over all key and value matrices is made once for a model; every erasure after that only recognises the model.
"""
CALL = "Seconds of the whole call (of these from rows to (D, Y) alone); the most memory.\n"
TEXTS = "Rows to erase + rows that stay; texts that are encoded (how long that takes on one thread, from above).\n"
LOOPS = """\
Seconds of the published code, written anew as plain per-layer loops (UCE arXiv 2308.14761, TIME 2303.08084, RECE
2407.12383, MACE 2403.06135, TRCE 2503.07389, SPEED 2503.07392), / seconds of ours, rows -> (D, Y) once for all
matrices = how many times faster. Erased + preserved random rows; TIME preserves nothing, TRCE's loop over prompts is
UCE's, SPEED has its filter on both sides. RECE and SPEED take the sum of W^T W, see above, as known. RealEra and CRCE
have no published closed-form code, LEACE's is one decomposition as ours. Loops: median of three; ours: of ten.

`*`: extrapolated. SDXL from one 640- and one 1280-row matrix of its 140; 100 + 1000 rows from one narrow (320 or 640)
and one 1280-row matrix with a tenth and a fiftieth of the rows. How, says `benchmarks/scale_loops.py`.
"""
WHOLE = """\
SD1.5 with all rows and nothing extrapolated for UCE, RECE and MACE, both sides measured in turn, medians: the loop's
seconds, and how many times faster ours is (`closed_form*.py`). These are the figures to quote.
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
    lines += [ENCODING]
    for shapes in SHAPES:
        lines += [f"## {shapes}: seconds without text encoding, and memory", ""]
        lines += [CALL]
        lines += _methods(
            records, shapes, lambda r: f"{_s(r, 'all but encoding')} s ({_s(r, 'solve')}), {r['peak MB']:,} MB"
        )
        lines += [TEXTS]
        each = records.get(f"encoding, {shapes}", {}).get("seconds per 100 phrases", 0) / 100
        lines += _methods(
            records,
            shapes,
            lambda r, each=each: (
                f"{r['rows'][0]:,} + {r['rows'][1]:,}; {r['texts']:,} texts ({_duration(each * r['texts'])})"
            ),
        )
    for title, name, columns, meaning in _OTHERS:
        lines += [f"## {title}", "", meaning]
        lines += _table(["shapes, concepts", *columns, "peak MB"], _others(records, name, columns))
    lines += ["## The published loops beside our solve of the same random rows", ""]
    lines += [LOOPS]
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
    lines += _table(["", *heads], rows)
    lines += [WHOLE]
    return "\n".join(lines + _table(["", "10 + 100", "100 + 1000"], _whole()))


def _whole() -> list[list[str]]:
    """UCE, RECE and MACE at both sizes, SPEED with ten concepts."""
    names = ("closed_form", "closed_form_methods", "closed_form_speed")
    plain, methods, speed = (json.loads((RESULTS / f"{n}.json").read_text(encoding="utf-8")) for n in names)
    rows = []
    for method, data, prefix in (("uce", plain, ""), ("rece", methods, "rece "), ("mace", methods, "mace ")):
        sizes = ("10+100", "100+1000")
        seconds = [statistics.median(data["seconds"][f"loop {prefix}d=768 {size}"]) for size in sizes]
        times = [data["ratios"][prefix + size] for size in sizes]
        rows.append([method, *(f"{s:.3g} s, {t:,.0f} x" for s, t in zip(seconds, times, strict=True))])
    for ours, label in (("ours", "our defaults"), ("ours, with filter", "with filter")):
        times = [speed["ratios"][f"{ours}, 10 concepts, {count} retained"] for count in (100, 1000)]
        rows.append([f"speed, {label}: 10 + 100, 10 + 1000", *(f"{t:,.0f} x" for t in times)])
    return rows


_OTHERS = (
    (
        "Joining erasures of one concept each, and taking one out",
        "join",
        ("join, seconds", "conflicts, seconds", "subtract, seconds"),
        "UCE. join: one solve of all concepts' rows, which each file carries; conflicts: which of them pull one row\n"
        "to different places; subtract: one concept out of the joint file, by a solve of the others.\n",
    ),
    (
        "Adding one more concept to as many, and taking it away",
        "stream",
        ("add, seconds", "remove, seconds", "afresh, seconds", "all one by one, seconds"),
        "Rank updates of the map and the inverse; afresh: the solve of all rows against rounding, which comes once in\n"
        "64 updates; all one by one: as many concepts, built by adding each to those before.\n",
    ),
    (
        "The firewall with as many rules of two phrases",
        "look-up",
        ("by words, ms", "by vectors, ms", "map of one concept, ms"),
        "Milliseconds for one prompt of 77 rows, median: which rules it names, by its words or by its vectors; then\n"
        "the map of the one concept it names, ten rows, on a prepared inverse.\n",
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
            values = [_cell(records, key, lambda r, c=column: f"{r[c]:.3g}" if r.get(c) else "") for column in columns]
            found.append([f"{shapes}, {count}", *values, _cell(records, key, lambda r: str(r["peak MB"]))])
    return found


def _cell(records: Mapping[str, Record], name: str, text: Callable[[Record], str]) -> str:
    record = records.get(name)
    if record is None:
        return "-"
    return f"failed: {record['failed']}" if "failed" in record else text(record)


def _s(record: Record, stage: str) -> str:
    return f"{record['seconds'].get(stage, 0.0):.3g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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

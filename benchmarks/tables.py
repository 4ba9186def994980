"""Every closed-form method on the bundled model: python benchmarks/tables.py [--methods uce rece] [--concepts circle].

Two shapes, two colours and a style, each onto another of its kind; with --best-two the two best methods on every shape,
colour and style (but solid, which is what is drawn when no style is asked for). For each the bench draws 128 pictures
that name the concept and 24 of each neighbour, without and with the erasure, same prompts and seeds, 20 steps, guidance
5. Methods run with our defaults; the preserved phrases are those of the demo. Beside them the anchor's own prompts are
drawn with the seeds of the concept's: an erasure cannot draw the rest better than the anchor itself does. What is drawn
is kept under --work, so an interrupted run goes on; records go to benchmarks/results/tables.json after every cell, and
--page writes them as a page. Several runs may go side by side, each with an --out of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import records
from uce_demo import SIZE, draw, figures

from erasure_core import METHODS, erase
from erasure_core.atomic import write_bytes
from erasure_core.demo.captions import article
from erasure_core.demo.detector import load_detector
from erasure_core.evaluation import bench, demo_groups
from erasure_core.evaluation.demo_prompts import DemoSize, attribute_of
from erasure_core.evaluation.groups import UNRELATED
from erasure_core.evaluation.intervals import wilson
from erasure_core.models import Model, load_demo
from erasure_core.showcase import demo_concept

CONCEPTS = {"circle": "square", "star": "heart", "red": "blue", "green": "yellow", "striped": "outlined"}
OTHERS = {
    **{"square": "triangle", "triangle": "star", "heart": "cross", "cross": "moon", "moon": "ring", "ring": "circle"},
    **{"orange": "red", "yellow": "green", "cyan": "green", "blue": "cyan", "purple": "pink", "pink": "red"},
    **{"dotted": "striped", "outlined": "dotted"},
}
ANCHORS = {**CONCEPTS, **OTHERS}
NAMED = DemoSize(direct=SIZE.direct, synonym=0, misspelt=0, implied=0, neighbour=SIZE.neighbour, unrelated=0)
CONTROL = "anchor's own prompts"
RESULTS = ROOT / "benchmarks" / "results" / "tables.json"


def page(records: Mapping[str, Any]) -> str:
    """The records as a Markdown page."""
    lines = [
        "# Closed-form methods on the bundled model",
        "",
        "Made by `benchmarks/tables.py` from `benchmarks/results/tables.json`; our defaults, an anchor of its kind. "
        "Target: pictures that still show the concept, of those drawn from prompts that name it, with the 95 % Wilson "
        "interval. Kept: correct pictures after, in percent of before, on the same prompts and seeds; the partner is "
        "the colour beside an erased shape or style and the shape beside an erased colour. The line *anchor's own "
        "prompts* is no erasure: the anchor's words drawn with the seeds of the concept's, so what it keeps is what "
        "a perfect replacement would keep.",
        "",
        "| concept | method | target before | target after | neighbours kept | partner beside neighbours kept | "
        "partner beside target kept | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, record in sorted(records.items()):
        concept, method = key.split(": ")
        partner = partner_of(concept)
        head = f"| {concept} -> {ANCHORS[concept]} | "
        if method == CONTROL:
            lines.append(f"{head}*{method}* | | | | | {kept(record[f'{partner} on target'])} | |")
            continue
        k, n = record["target"]["after"]
        low, high = wilson(k, n)
        before = record["target"]["before"]
        cells = [
            method,
            f"{before[0]}/{before[1]}",
            f"{k}/{n} = {100 * k / n:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
            kept(record["others"]),
            kept(record[f"{partner} on others"]),
            kept(record[f"{partner} on target"]),
            f"{record['seconds']:.2f}",
        ]
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kept(pair: Mapping[str, Any]) -> str:
    """Correct pictures after, in percent of before."""
    return f"{100 * pair['after'][0] / max(1, pair['before'][0]):.0f} %"


def partner_of(concept: str) -> str:
    """The attribute that the prompts name beside the concept."""
    return "shape" if attribute_of(concept) == "colour" else "colour"


def best_two(records: Mapping[str, Any]) -> list[str]:
    """The methods that leave least of the targets of :data:`CONCEPTS` and, of those alike, keep most of the rest."""

    def rank(method: str) -> tuple[int, float]:
        found = [(records[f"{concept}: {method}"], partner_of(concept)) for concept in CONCEPTS]
        left = sum(record["target"]["after"][0] for record, _ in found)
        rest = [
            record[what]["after"][0] / record[what]["before"][0]
            for record, partner in found
            for what in ("others", f"{partner} on others", f"{partner} on target")
        ]
        return left, -sum(rest) / len(rest)

    measured = [method for method in METHODS if all(f"{concept}: {method}" in records for concept in CONCEPTS)]
    return sorted(measured, key=rank)[:2]


def control(model: Model, concept: str, work: Path) -> dict[str, Any]:
    """How often the partner is drawn right beside the concept, and beside its anchor with the same seeds."""
    groups = [group for group in demo_groups(concept, NAMED) if group.name == "D"]
    cases = tuple(
        replace(
            case,
            prompt=instead(case.prompt, concept),
            expect={**case.expect, attribute_of(concept): ANCHORS[concept]},
        )
        for case in groups[0].cases
    )
    named, instead_of = (
        bench(model, [], [replace(groups[0], role=UNRELATED, cases=shown)], load_detector(), work).rate(
            "D", partner_of(concept)
        )[0]
        for shown in (groups[0].cases, cases)
    )
    before, after = ([rate.k, rate.n] for rate in (named, instead_of))
    return {f"{partner_of(concept)} on target": {"before": before, "after": after}}


def instead(prompt: str, concept: str) -> str:
    """The prompt with the anchor's word in the place of the concept's, its article included."""
    words = [ANCHORS[concept] if word == concept else word for word in prompt.split()]
    return " ".join([article(words[1]), *words[1:]])


def record_of(model: Model, key: str, size: DemoSize, work: Path) -> dict[str, Any]:
    """What is measured for one line of the table, "concept: method"."""
    concept, method = key.split(": ")
    if method == CONTROL:
        return control(model, concept, work)
    begun = time.perf_counter()
    erasure = erase(model, demo_concept(concept, ANCHORS[concept]), method)
    seconds = time.perf_counter() - begun
    groups = [group for group in demo_groups(concept, size) if size is SIZE or group.name in ("D", "N")]
    result = draw(model, erasure, groups, work, key)
    return {**figures(result, erasure, attribute_of(concept)), "seconds": round(seconds, 3)}


def main() -> int:
    """Run what is missing, print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, CONTROL], help="default: all")
    parser.add_argument(
        "--concepts", nargs="+", choices=list(ANCHORS), help="default: the five, or with --best-two all others"
    )
    parser.add_argument("--best-two", action="store_true", help="then the two best methods on all other concepts")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "tables", help="folder of pictures and records")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    head = {"model": model.fingerprint, "detector": load_detector().fingerprint}
    found = records.read(options.out, head)

    def run(concepts: Iterable[str], methods: Iterable[str], size: DemoSize) -> None:
        for key in (f"{concept}: {method}" for concept, method in product(concepts, methods)):
            if key not in found:
                found[key] = record_of(model, key, size, options.work)
                records.write(options.out, head, found)

    if options.best_two:
        run(CONCEPTS, METHODS, SIZE)
        run(options.concepts or OTHERS, best_two(found), NAMED)
        run(options.concepts or ANCHORS, [CONTROL], NAMED)
    else:
        run(options.concepts or CONCEPTS, options.methods or (*METHODS, CONTROL), SIZE)
    print(page(found))
    if options.page:
        write_bytes(options.page, page(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every closed-form method on the bundled model: python benchmarks/tables.py [--methods uce rece] [--concepts circle].

Two shapes, two colours and a style, each onto another of its kind. For each the bench draws 128 pictures that name the
concept and 24 of each neighbour, without and with the erasure, same prompts and seeds, 20 steps, guidance 5. Methods
run with our defaults; the preserved phrases are those of the demo. What is drawn is kept under --work, so an
interrupted run goes on; records go to benchmarks/results/tables.json after every cell, and --page writes them as a
page. Several runs with different --concepts may go side by side, each with an --out of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from uce_demo import SIZE, draw, figures

from erasure_core import METHODS, erase
from erasure_core.demo.detector import load_detector
from erasure_core.evaluation import demo_groups
from erasure_core.evaluation.demo_prompts import attribute_of
from erasure_core.evaluation.intervals import wilson
from erasure_core.models import load_demo
from erasure_core.showcase import demo_concept

CONCEPTS = {"circle": "square", "star": "heart", "red": "blue", "green": "yellow", "striped": "outlined"}
RESULTS = ROOT / "benchmarks" / "results" / "tables.json"


def page(records: Mapping[str, Any]) -> str:
    """The records as a Markdown page."""
    lines = [
        "# Closed-form methods on the bundled model",
        "",
        "Made by `benchmarks/tables.py` from `benchmarks/results/tables.json`; our defaults, an anchor of its kind. "
        "Target: pictures that still show the concept, of those drawn from prompts that name it, with the 95 % Wilson "
        "interval. Kept: correct pictures after, in percent of before, on the same prompts and seeds.",
        "",
        "| concept | method | target before | target after | neighbours kept | partner kept | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, record in sorted(records.items()):
        concept, method = key.split(": ")
        k, n = record["target"]["after"]
        low, high = wilson(k, n)
        before = record["target"]["before"]
        partner = "shape" if attribute_of(concept) == "colour" else "colour"
        cells = [
            f"{concept} -> {CONCEPTS[concept]}",
            method,
            f"{before[0]}/{before[1]}",
            f"{k}/{n} = {100 * k / n:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
            _kept(record["others"]),
            _kept(record[f"{partner} on others"]),
            f"{record['seconds']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _kept(pair: Mapping[str, Any]) -> str:
    return f"{100 * pair['after'][0] / max(1, pair['before'][0]):.0f} %"


def main() -> int:
    """Run what is missing, print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS), choices=list(CONCEPTS))
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "tables", help="folder of pictures and records")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    head = {"model": model.fingerprint, "detector": load_detector().fingerprint}
    stored = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    records: dict[str, Any] = stored.get("records", {}) if stored.get("setting") == head else {}
    for concept in options.concepts:
        for method in options.methods:
            key = f"{concept}: {method}"
            if key in records:
                continue
            begun = time.perf_counter()
            erasure = erase(model, demo_concept(concept, CONCEPTS[concept]), method)
            seconds = time.perf_counter() - begun
            result = draw(model, erasure, demo_groups(concept, SIZE), options.work, key)
            records[key] = {**figures(result, erasure, attribute_of(concept)), "seconds": round(seconds, 3)}
            content = json.dumps({"setting": head, "records": records}, indent=1, sort_keys=True, ensure_ascii=False)
            options.out.write_text(content + "\n", encoding="utf-8")
    print(page(records))
    if options.page:
        options.page.write_text(page(records), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""UCE on the bundled model, every shape: python benchmarks/uce_demo.py [--shapes circle star] [--configs anchor none].

For each shape the bench draws 128 pictures that name it (8 colours x 16 seeds), the same without the word, synonyms,
and 24 pictures of each other shape, without and with the membrane, same prompts and seeds, 20 steps, guidance 5. What
is finished is kept under --work; records go to benchmarks/results/uce_demo.json after every configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import records

from erasure_core import Membrane, erase
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import SHAPES
from erasure_core.evaluation import BenchResult, bench, demo_groups
from erasure_core.evaluation.demo_prompts import DemoSize
from erasure_core.models import Model, load_demo
from erasure_core.showcase import demo_concept

SIZE = DemoSize(direct=16, synonym=16, misspelt=0, implied=0, neighbour=24, unrelated=16)
ANCHOR = dict(zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True))
CONFIGS: Mapping[str, dict[str, Any]] = {
    "anchor": {},
    "none": {},
    "parity anchor": {"parity": True},
    "parity none": {"parity": True},
    "anchor, protect 1": {"protect": 1.0},
    "none, protect 1": {"protect": 1.0},
}


def measure(model: Model, shape: str, config: str, work: Path, size: DemoSize) -> tuple[BenchResult, Any]:
    """One shape under one configuration."""
    concept = demo_concept(shape, ANCHOR[shape] if "anchor" in config else "")
    erasure = erase(model, concept, **CONFIGS[config])
    return draw(model, erasure, demo_groups(shape, size), work, f"{shape}, {config}"), erasure


def draw(model: Model, erasure: Any, groups: Any, work: Path, what: str) -> BenchResult:
    """The bench with a progress bar."""
    with tqdm(desc=what, leave=False) as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return bench(model, [Membrane(erasure, gate="always")], groups, load_detector(), work, progress=progress)


def figures(result: BenchResult, erasure: Any, attribute: str = "shape") -> dict[str, Any]:
    """The numbers of the table, as k of n. ``attribute`` is the target's; its partner the colour, or the shape.

    Without groups beyond those that name the target and its neighbours only those are counted.
    """
    partner = "shape" if attribute == "colour" else "colour"

    def pair(group: str, attribute: str) -> dict[str, Any]:
        before, after = result.rate(group, attribute)
        return {"before": [before.k, before.n], "after": [after.k, after.n], "text": f"{before} -> {after}"}

    found = {
        "target": pair("D", attribute),
        "others": pair("N", attribute),
        f"{partner} on target": pair("D", partner),
        f"{partner} on others": pair("N", partner),
        "diagnostics": dict(erasure.diagnostics),
    }
    if "O" not in result.pairs:
        return found
    left_out = result.rate("O")[0]
    return {
        **found,
        "left out": [left_out.k, left_out.n],
        "synonyms": pair("P", attribute),
        "stability": round(result.scores.axes["F"].value, 3) if "F" in result.scores.axes else None,
    }


def table(records: Mapping[str, Any]) -> str:
    """One line per shape and configuration, in percent; kept = after / before on the same prompts and seeds."""
    head = f"{'shape':10}{'configuration':20}{'target':>14}{'left out':>9}{'others kept':>12}"
    lines = [head + f"{'colour kept':>12}{'c. others':>10}{'synonyms':>9}"]
    for key, r in sorted(records.items()):
        shape, config = key.split(": ")

        def rate(entry: list[int]) -> float:
            return 100 * entry[0] / entry[1] if entry[1] else float("nan")

        def kept(name: str, r: Mapping[str, Any] = r) -> float:
            return 100 * r[name]["after"][0] / max(1, r[name]["before"][0])

        target = f"{rate(r['target']['before']):.1f} -> {rate(r['target']['after']):.1f}"
        lines.append(
            f"{shape:10}{config:20}{target:>14}{rate(r['left out']):>9.1f}{kept('others'):>12.1f}"
            f"{kept('colour on target'):>12.1f}{kept('colour on others'):>10.1f}{rate(r['synonyms']['after']):>9.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "uce_demo", help="folder of pictures and records")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "uce_demo.json")
    parser.add_argument("--draws", type=int, default=SIZE.direct, help="pictures of each prompt that names the shape")
    options = parser.parse_args()
    size = replace(SIZE, direct=options.draws)
    torch.set_num_threads(1)
    model = load_demo()
    found: dict[str, Any] = {}
    for config in options.configs:
        for shape in options.shapes:
            found[f"{shape}: {config}"] = figures(*measure(model, shape, config, options.work, size))
            head = {"model": model.fingerprint, "detector": load_detector().fingerprint, "seeds": "of the groups"}
            records.write(options.out, head, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

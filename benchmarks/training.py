"""Every trained method on the bundled model: python benchmarks/training.py [--methods spm esd] [--concepts star red].

Two shapes, a colour and a style, each onto another of its kind, with our defaults and the demo's preserved phrases. For
each the bench draws 128 pictures that name the concept, misspellings of it, 14 of each neighbour and 48 of other
things, without and with the trained membrane, same prompts and seeds, 20 steps, guidance 5. Minutes are processor time
of training on one thread. With --together four SPM membranes act in one list, each by its own gate, and each concept is
measured under all of them; neighbours are those that no other membrane of the list erases. Trained files and pictures
are kept under --work, so an interrupted run goes on; records go to benchmarks/results/training.json after every cell,
and --page writes them as a page.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import records
from tables import kept, partner_of
from uce_demo import figures

from erasure_core import Membrane, load, save, train
from erasure_core.atomic import write_bytes
from erasure_core.demo.detector import load_detector
from erasure_core.evaluation import bench, demo_groups
from erasure_core.evaluation.demo_prompts import DemoSize, attribute_of
from erasure_core.evaluation.groups import PromptGroup
from erasure_core.evaluation.intervals import wilson
from erasure_core.models import load_demo
from erasure_core.showcase import demo_concept
from erasure_core.training import METHODS

CONCEPTS = {"star": "heart", "circle": "square", "red": "blue", "striped": "outlined"}
SIZE = DemoSize(direct=16, synonym=16, misspelt=24, implied=0, neighbour=14, unrelated=48)
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
TOGETHER = "spm, four in one list"


def trained(model: Any, concept: str, method: str, work: Path) -> tuple[Path, float]:
    """The file of a trained membrane, and the minutes of processor time that it took; trained once."""
    path = work / f"{concept}-{method}.safetensors"
    clock = path.with_suffix(".json")
    if not clock.exists():
        begun = time.process_time()
        erasure = train(model, demo_concept(concept, CONCEPTS[concept]), method)
        minutes = (time.process_time() - begun) / 60
        work.mkdir(parents=True, exist_ok=True)
        save(erasure, path)
        clock.write_text(json.dumps(minutes), encoding="utf-8")
    return path, float(json.loads(clock.read_text(encoding="utf-8")))


def record_of(model: Any, concept: str, method: str, work: Path) -> dict[str, Any]:
    """What is measured for one line of the table."""
    if method == TOGETHER:
        files = [trained(model, other, "spm", work)[0] for other in CONCEPTS]
        more: dict[str, Any] = {"bytes": sum(path.stat().st_size for path in files)}
    else:
        path, minutes = trained(model, concept, method, work)
        files, more = [path], {"minutes": round(minutes, 2), "bytes": path.stat().st_size}
    erasures = [load(path) for path in files]
    groups = demo_groups(concept, SIZE)
    if method == TOGETHER:
        groups = tuple(without_other_targets(group, concept) for group in groups)
    membranes = [Membrane(erasure, gate="auto" if method == TOGETHER else "always") for erasure in erasures]
    result = bench(model, membranes, groups, load_detector(), work / "pictures")
    found = figures(result, erasures[0], attribute_of(concept))
    if "M" in result.pairs:
        before, after = result.rate("M")
        more["misspelt"] = {"before": [before.k, before.n], "after": [after.k, after.n]}
        more["misspelt testable"] = result.testable("M")
    if method == TOGETHER:
        found.pop("diagnostics")
    return {**found, **more}


def without_other_targets(group: PromptGroup, concept: str) -> PromptGroup:
    """The group without prompts that name what another membrane of the list erases; those of the target itself stay."""
    if group.name in ("D", "O", "P", "M"):
        return group
    others = set(CONCEPTS) - {concept}
    return replace(group, cases=tuple(case for case in group.cases if not others & set(case.prompt.split())))


def page(records: Mapping[str, Any]) -> str:
    """The records as a Markdown page."""
    lines = [
        "# Trained methods on the bundled model",
        "",
        "Made by `benchmarks/training.py` from `benchmarks/results/training.json`; our defaults, an anchor of its "
        "kind, gate always (four in one list: gate auto, neighbours that none of them erases). Target: pictures that "
        "still show the concept, of those drawn from prompts that name it, with the 95 % Wilson interval. Kept: "
        "correct pictures after, in percent of before, on the same prompts and seeds; the partner is the colour "
        "beside a shape or style and the shape beside a colour. Stability: how alike pictures of other things are "
        "before and after, 1 = the same. Misspellings in brackets are drawn too rarely by the model itself to tell. "
        "Minutes of processor time on one thread, size of the native file.",
        "",
        "Few-shot erasing and SLUG change the text encoder and know no anchor: what comes is what the model draws "
        "without the word, in 84 of 128 pictures a circle. A slider's layers read no text; LECO's do. MACE's "
        "refinement alone leaves 85 circles, see `tables.md`; its LoRA hardly changes that on this model.",
        "",
        "| concept | method | target before | target after | misspelt | neighbours kept | partner beside neighbours "
        "kept | stability | minutes | file |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, r in sorted(records.items()):
        concept, method = key.split(": ")
        partner = partner_of(concept)
        k, n = r["target"]["after"]
        low, high = wilson(k, n)
        misspelt = "-"
        if "misspelt" in r:
            (a, m), (b, _) = r["misspelt"]["before"], r["misspelt"]["after"]
            misspelt = f"{a} -> {b} of {m}" if r["misspelt testable"] else f"({a} -> {b} of {m})"
        cells = [
            f"{concept} -> {CONCEPTS[concept]}",
            method,
            "{}/{}".format(*r["target"]["before"]),
            f"{k}/{n} = {100 * k / n:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
            misspelt,
            kept(r["others"]),
            kept(r[f"{partner} on others"]),
            "-" if r.get("stability") is None else f"{r['stability']:.2f}",
            f"{r['minutes']:.1f}" if "minutes" in r else "-",
            f"{r['bytes'] / 1000:.0f} kB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what is missing, print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--concepts", nargs="+", choices=list(CONCEPTS), default=list(CONCEPTS))
    parser.add_argument("--together", action="store_true", help="four membranes in one list instead")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "training", help="folder of files and pictures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    head = {"model": model.fingerprint, "detector": load_detector().fingerprint}
    found = records.read(options.out, head)
    for method, concept in product([TOGETHER] if options.together else options.methods, options.concepts):
        key = f"{concept}: {method}"
        if key not in found:
            found[key] = record_of(model, concept, method, options.work)
            records.write(options.out, head, found)
            print(page({key: found[key]}).splitlines()[-1], flush=True)
    print(page(found))
    if options.page:
        write_bytes(options.page, page(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

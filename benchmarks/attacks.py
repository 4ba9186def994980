"""Texts made to undo an erasure, on plain UCE and on the same map made singular: python benchmarks/attacks.py.

Three attacks on every row ``h`` of the prompts that name the target, each with knowledge of the map T:
``preimage`` T^+ h (the embedding that T turns into the concept, if T can be undone); ``derived``, the text that RECE
(arXiv 2407.12383, Eq. 8) derives, ``(r I + T^T S T)^-1 T^T S h`` with S = sum W^T W and r = 0.1 or 0.001 of its mean
eigenvalue; ``arithmetic`` a + 2 (h - a) with a the rows of the anchor's prompt. 8 colours x 16 seeds = 128 pictures
each, 20 steps, guidance 5; beside them the prompts without an attack, without erasure, and without the word, and
"neighbours": the seven other shapes x 8 colours x 3 seeds = 168 pictures, in how many the shape asked for is drawn.
Records go to benchmarks/results/attacks.json after every cell, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import records

from erasure_core import Membrane, apply, erase
from erasure_core.compression import output_metric
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import COLOURS, SHAPES
from erasure_core.erasure import Erasure, cross_attention_names
from erasure_core.evaluation.detectors import judge
from erasure_core.evaluation.intervals import wilson
from erasure_core.models import Encoded, Model, load_demo
from erasure_core.showcase import demo_concept

TARGETS = {"star": "heart", "circle": "square", "square": "circle", "heart": "star"}
MAPS: Mapping[str, dict[str, Any]] = {"uce": {}, "uce, singular=2": {"singular": 2}}
ATTACKS = ("none", "preimage", "derived 0.1", "derived 0.001", "arithmetic")
SEEDS, FEW = range(5000, 5016), range(5000, 5003)
Wanted = tuple[Encoded, list[str], range]


def attacked(rows: Tensor, anchor: Tensor, attack: str, t: Tensor, metric: Tensor) -> Tensor:
    """Rows [B, 77, d] as the attack changes them; ``t`` T [d, d], ``metric`` S [d, d], float64."""
    h = rows.double()
    if attack == "preimage":
        h = h @ torch.linalg.pinv(t, rtol=1e-6).T
    elif attack.startswith("derived"):
        r = float(attack.split()[1]) * float(metric.diagonal().mean())
        inner = t.T @ metric @ t + r * torch.eye(len(t), dtype=t.dtype)
        h = h @ torch.linalg.solve(inner, t.T @ metric).T
    elif attack == "arithmetic":
        h = anchor.double() + 2 * (h - anchor.double())
    return h.float()


def shown(model: Model, wanted: Wanted) -> list[int]:
    """[pictures that show the shape of their prompt's place in the list, pictures] over all seeds."""
    encoded, shapes, seeds = wanted
    hits = total = 0
    for seed in seeds:
        pictures = model.decode(model.sample(encoded, seed=[seed * 100 + i for i in range(len(encoded))], steps=20))
        verdicts = judge(load_detector(), pictures)
        hits += sum(verdict.labels.get("shape") == shape for verdict, shape in zip(verdicts, shapes, strict=True))
        total += len(verdicts)
    return [hits, total]


def cells(model: Model, target: str) -> dict[str, tuple[Erasure | None, Wanted]]:
    """What to measure for a target: name -> (erasure or None, prompts with the shapes to look for)."""
    named = model.encode([f"a {colour} {target}" for colour in COLOURS])
    anchor = model.encode([f"a {colour} {TARGETS[target]}" for colour in COLOURS]).hidden
    weights = model.weights()
    metric = output_metric(weights, cross_attention_names(weights), named.hidden.shape[2])
    others = [(colour, shape) for shape in SHAPES if shape != target for colour in COLOURS]
    kept = model.encode([f"a {colour} {shape}" for colour, shape in others]), [shape for _, shape in others], FEW

    def look(encoded: Encoded) -> Wanted:
        return encoded, [target] * len(COLOURS), SEEDS

    found: dict[str, tuple[Erasure | None, Wanted]] = {
        f"{target}: no erasure": (None, look(named)),
        f"{target}: word left out": (None, look(model.encode([f"a {colour}" for colour in COLOURS]))),
        f"{target}: no erasure, neighbours": (None, kept),
    }
    for name, options in MAPS.items():
        erasure = erase(model, demo_concept(target, TARGETS[target]), **options)
        t = erasure.maps["clip_l"].matrix()
        for attack in ATTACKS:
            rows = attacked(named.hidden, anchor, attack, t, metric)
            found[f"{target}: {name}, {attack}"] = erasure, look(replace(named, hidden=rows))
        found[f"{target}: {name}, neighbours"] = erasure, kept
    return found


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "attacks.json")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    setting = {"model": model.fingerprint, "detector": load_detector().fingerprint}
    found = records.read(options.out, setting)
    for target in options.targets:
        for name, (erasure, wanted) in cells(model, target).items():
            if name not in found:
                with apply(model, [] if erasure is None else Membrane(erasure, gate="always")):
                    found[name] = shown(model, wanted)
                records.write(options.out, setting, found)
            k, n = found[name]
            low, high = wilson(k, n)
            print(f"{name:45} {k:4}/{n} = {100 * k / n:5.1f} % ({100 * low:.1f}-{100 * high:.1f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Guidance methods on the bundled model: python benchmarks/guidance.py [--shapes circle] [--methods negation sld].

Four sets of prompts for each shape, drawn without and with each method from the same noise, 20 steps, guidance 5:
"target": 128 pictures that name the shape with a colour (8 colours x 16 seeds); "bare": 128 pictures of the prompt that
is the concept's own text; "others": 168 of the other shapes (7 shapes x 8 colours x 3 seeds), counted by shape and by
colour. The detector counts what is still drawn. Evaluations are the denoiser's rows over those of guidance alone.
Counts go to benchmarks/results/guidance.json after each set; what stands there is not drawn again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from erasure_core import guidance
from erasure_core.demo.captions import prompt
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import COLOURS, SHAPES
from erasure_core.evaluation import Rate
from erasure_core.guidance import GuidanceTerm
from erasure_core.models import load_demo

STEPS, CFG, BATCH = 20, 5.0, 32
ANCHOR = dict(zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True))
METHODS: Mapping[str, tuple[str, str]] = {
    "none": ("", ""),
    "negative": ("negative", ""),
    "negative, surgical": ("negative", "mode=surgical"),
    "negative, adaptive": ("negative", "adaptive=yes"),
    "negation": ("negation", ""),
    "negation, robust": ("negation", "mode=robust"),
    "negation, limit 1": ("negation", "limit=1"),
    "sld medium": ("sld", ""),
    "sld strong": ("sld", "preset=strong"),
    "sld max": ("sld", "preset=max"),
    "sld balanced": ("sld", "preset=balanced"),
    "sega": ("sega", ""),
    "perp_neg": ("perp_neg", ""),
    "dng": ("dng", ""),
    "all_but_one": ("all_but_one", ""),
}
Shot = tuple[str, int, dict[str, str]]


def shots(shape: str) -> dict[str, list[Shot]]:
    """Set -> prompts with seeds and what they should show."""
    named = [(prompt(c, shape), {"shape": shape, "colour": c}) for c in COLOURS]
    others = [(prompt(c, s), {"shape": s, "colour": c}) for s in SHAPES if s != shape for c in COLOURS]
    return {
        "target": [(text, 1000 + 16 * i + k, want) for i, (text, want) in enumerate(named) for k in range(16)],
        "bare": [(shape, 3000 + k, {"shape": shape}) for k in range(128)],
        "others": [(text, 5000 + 3 * i + k, want) for i, (text, want) in enumerate(others) for k in range(3)],
    }


def count(model: Any, detector: Any, wanted: Sequence[Shot], terms: Sequence[GuidanceTerm]) -> dict[str, Any]:
    """Attribute -> [k, n], and the evaluations as a multiple of guidance alone."""
    found: dict[str, list[int]] = {}
    before = model.evaluations
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        encoded = model.encode([text for text, _, _ in part])
        latents = model.sample(encoded, seed=[seed for _, seed, _ in part], steps=STEPS, cfg=CFG, guidance=terms)
        for (_, _, want), reading in zip(part, detector.read(torch.nan_to_num(model.decode(latents))), strict=True):
            for attribute, label in want.items():
                k, n = found.setdefault(attribute, [0, 0])
                found[attribute] = [k + (reading[attribute] == label), n + 1]
    factor = (model.evaluations - before) / (2 * STEPS * len(wanted))
    return {**found, "evaluations": round(factor, 4)}


def table(records: Mapping[str, Any]) -> str:
    """One line per shape and method; kept = after over before on the same prompts and seeds; - is not measured."""
    lines = [f"{'shape':9}{'method':20}{'target':>26}{'bare concept':>26}{'others kept':>12}{'colour':>8}{'evals':>7}"]
    for key, record in records.items():
        shape, method = key.split(": ")
        base = records.get(f"{shape}: none", {})
        rates = [str(Rate(*record[name]["shape"])) if name in record else "-" for name in ("target", "bare")]
        kept = ["-", "-"]
        if "others" in record and "others" in base:
            kept = [f"{100 * record['others'][a][0] / base['others'][a][0]:.1f}%" for a in ("shape", "colour")]
        cost = next(iter(record.values()))["evaluations"]
        lines.append(f"{shape:9}{method:20}{rates[0]:>26}{rates[1]:>26}{kept[0]:>12}{kept[1]:>8}{cost:>7.2f}")
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["circle"], choices=SHAPES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sets", nargs="+", default=["target", "bare", "others"], choices=("target", "bare", "others"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "guidance.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, detector = load_demo(), load_detector()
    head = {"model": model.fingerprint, "steps": STEPS, "cfg": CFG, "scheduler": model.scheduler}
    old = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    records: dict[str, Any] = old.get("records", {}) if old.get("setting") == head else {}
    for shape in options.shapes:
        for method in options.methods:
            name, settings = METHODS[method]
            terms = [guidance.make_with(name, f"{shape} -> {ANCHOR[shape]}", settings)] if name else []
            for group, wanted in shots(shape).items():
                record = records.setdefault(f"{shape}: {method}", {})
                if group in record or group not in options.sets:
                    continue
                record[group] = count(model, detector, wanted, terms)
                print(f"{shape}: {method}: {group} {record[group]}", file=sys.stderr, flush=True)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                part = options.out.with_suffix(".part")
                part.write_text(json.dumps({"setting": head, "records": records}, indent=1) + "\n", encoding="utf-8")
                part.replace(options.out)
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())

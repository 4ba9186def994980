"""Every guidance method on the bundled model: python benchmarks/guidance.py [--shapes circle] [--cfg 5 1].

Three sets of 128 prompts for each shape, 20 steps, drawn without and with each method from the same noise: prompts that
name the shape with a colour, the prompt that is the concept's own text, and prompts of the other seven shapes. The
bundled detector counts. Settings were chosen on other seeds (below 3000). Counts go to benchmarks/results/guidance.json
after each cell, from where the page benchmarks/guidance.md is made; what stands there is not drawn again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from guidance_cells import SEEDS, STEPS, Bench, Method
from guidance_page import page

from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import SHAPES
from erasure_core.models import load_demo

NAG: Mapping[str, Any] = {"method": "nag", "scale": 4, "alpha": 1, "negative": "words"}
METHODS: Mapping[str, Method] = {
    "negative prompt": Method(("negative", "")),
    "negative prompt, surgical window": Method(("negative", "mode=surgical")),
    "negative prompt, adaptive window": Method(("negative", "adaptive=yes")),
    "negation": Method(("negation", "")),
    "negation, balanced window": Method(("negation", "mode=balanced")),
    "negation, robust window": Method(("negation", "mode=robust")),
    "negation, limit 1": Method(("negation", "limit=1")),
    "SLD weak": Method(("sld", "preset=weak")),
    "SLD medium": Method(("sld", "")),
    "SLD strong": Method(("sld", "preset=strong")),
    "SLD max": Method(("sld", "preset=max")),
    "SLD balanced": Method(("sld", "preset=balanced")),
    "SEGA": Method(("sega", "")),
    "Perp-Neg": Method(("perp_neg", "")),
    "Dynamic Negative Guidance": Method(("dng", "")),
    "All but One": Method(("all_but_one", "")),
    "NAG, paper's for SDXL": Method(attention={"method": "nag"}, named=True),
    "NAG, tuned": Method(attention=NAG, named=True),
    "NAG, tuned, gate words": Method(attention={**NAG, "gate": "words"}),
    "VSF": Method(attention={"method": "vsf"}, named=True),
    "VSF, in full on every prompt": Method(attention={"method": "vsf", "gate": "always"}, named=True),
    "VSF, 0.65 on every prompt": Method(attention={"method": "vsf", "gate": "always", "strength": 0.65}, named=True),
    "AdaVD": Method(attention={"method": "adavd"}),
    "AdaVD, b 0.85": Method(attention={"method": "adavd", "sigmoid_b": 0.85}),
    "SAFREE": Method(text={"method": "safree"}),
    "SAFREE, all rows, whole run": Method(text={"method": "safree", "rows": "all", "filter": "no"}),
    "Concept Lancet": Method(text={"method": "lancet"}),
    "gated LEACE": Method(text={"method": "projection"}),
    "gated LEACE, to the mean": Method(text={"method": "projection", "to": "mean"}),
    "all three: the last, VSF, negation": Method(
        ("negation", "mode=balanced"), {"method": "vsf"}, {"method": "projection", "to": "mean"}, named=True
    ),
}


def main() -> int:
    """Run what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["circle"], choices=SHAPES)
    parser.add_argument("--cfg", nargs="+", type=float, default=[5.0, 1.0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "guidance.json")
    parser.add_argument("--page", type=Path, default=ROOT / "benchmarks" / "guidance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    head = {"model": model.fingerprint, "detector": load_detector().fingerprint, "steps": STEPS, "seeds": SEEDS}
    head["scheduler"] = model.scheduler
    old = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    records: dict[str, Any] = old.get("records", {}) if old.get("setting") == head else {}
    for shape, cfg in [(shape, cfg) for cfg in options.cfg for shape in options.shapes]:
        names = {name: f"{shape}, cfg {cfg:g}: {name}" for name in ("none", *options.methods)}
        missing = [name for name, key in names.items() if key not in records]
        bench = Bench(model, shape, cfg) if missing else None
        for name in missing:
            assert bench is not None
            record = bench.plain() if name == "none" else bench.measure(METHODS[name])
            records[names[name]] = record
            print(f"{names[name]}: {record}", file=sys.stderr, flush=True)
            _write(options.out, json.dumps({"setting": head, "records": records}, indent=1) + "\n")
    text = page(records, list(METHODS))
    _write(options.page, text)
    print(text)
    return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())

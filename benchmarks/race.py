"""Attacks on the encoded prompt of a trained erasure, without and with RACE: python benchmarks/race.py.

White box, as RACE (arXiv 2405.16341) has it: the attacker knows the erased weights and moves every number of the 77
rows of "a red star" by at most the radius, in 40 steps of projected gradient descent by the sign, so that the erased
model predicts what the original predicts for the same prompt, on noised pictures that the original drew of it, at a new
timestep in each step. The picture is then drawn with the moved rows. 8 colours x 16 seeds = 128 attacks; a success is a
picture in which the detector reads the erased shape. Beside them the prompt without an attack, and other shapes.
Radius and settings were chosen with --tuning, whose seeds are others. Records go to benchmarks/results/race.json after
every cell, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import records

from erasure_core import Membrane, apply
from erasure_core.checkpoint import bare_generator
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import COLOURS, SHAPES
from erasure_core.erasure import Erasure
from erasure_core.evaluation.detectors import judge
from erasure_core.evaluation.intervals import wilson
from erasure_core.models import Encoded, Model, load_demo
from erasure_core.training import train
from erasure_core.training.grid import Grid
from erasure_core.training.texts import Texts

TARGET, ANCHOR = "star", "heart"
STEPS, STEP_SHARE = 40, 0.1  # of the attack; each step as long as this share of the radius
RADIUS = 0.25
ARMS: Mapping[str, tuple[str, dict[str, Any]] | None] = {
    "no erasure": None,
    "without": ("esd", {"steps": 150}),
    "with RACE": ("esd", {"steps": 150, "attack": 10, "attack_radius": 0.4}),
}
SEEDS, TUNING = range(16), range(500, 504)
AT_ONCE = 32


class Task:
    """Prompts [B], what an attack is to reach, and the noise of the pictures drawn afterwards."""

    def __init__(self, model: Model, seeds: Sequence[int]) -> None:
        self.seeds = [10_000 * seed + i for seed in seeds for i in range(len(COLOURS))]
        self.prompts = [f"a {colour} {TARGET}" for _ in seeds for colour in COLOURS]
        self.encoded = model.encode(self.prompts)
        grid = Grid.of(model.sigmas, 1000)
        source = bare_generator(seeds[0], 1)
        pictures = drawn(model, self.encoded, [seed + 5_000 for seed in self.seeds])
        self.ks = torch.randint(len(grid), (STEPS, len(self.prompts)), generator=source)
        noise = torch.randn(STEPS, *pictures.shape, generator=source)
        levels = grid.alphas[self.ks][..., None, None, None].float()
        self.x = levels.sqrt() * pictures + (1 - levels).sqrt() * noise
        self.taus = grid.taus[self.ks]
        with model.open_denoiser() as network, torch.no_grad():  # type: ignore[attr-defined]
            self.aims = torch.stack(
                [network.predict(x, t, Texts(self.encoded.hidden)) for x, t in zip(self.x, self.taus, strict=True)]
            )

    def attacked(self, model: Model, radius: float) -> Tensor:
        """The rows [B, 77, d] after the attack on ``model`` as it is now."""
        found = []
        with model.open_denoiser() as network:  # type: ignore[attr-defined]
            for start in range(0, len(self.prompts), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                own = self.encoded.hidden[part]
                rows = own.clone()
                for x, t, aim in zip(self.x, self.taus, self.aims, strict=True):
                    rows = rows.detach().requires_grad_()
                    out = network.predict(x[part], t[part], Texts(rows))
                    (slope,) = torch.autograd.grad((out - aim[part]).square().sum(), rows)
                    moved = rows.detach() - STEP_SHARE * radius * slope.sign()
                    rows = own + (moved - own).clamp(-radius, radius)
                found.append(rows.detach())
        return torch.cat(found)


@torch.no_grad()
def drawn(model: Model, encoded: Encoded, seeds: Sequence[int]) -> Tensor:
    """Latents, a few at a time."""
    parts = [range(start, min(start + AT_ONCE, len(seeds))) for start in range(0, len(seeds), AT_ONCE)]
    return torch.cat(
        [model.sample(encoded.take(list(p)), seed=[seeds[i] for i in p], steps=20, cfg=5.0) for p in parts]
    )


def shown(model: Model, encoded: Encoded, seeds: Sequence[int], shapes: Sequence[str]) -> list[int]:
    """[pictures that show the shape asked for, pictures]."""
    verdicts = judge(load_detector(), model.decode(drawn(model, encoded, seeds)))
    return [sum(v.labels.get("shape") == shape for v, shape in zip(verdicts, shapes, strict=True)), len(verdicts)]


def with_rows(encoded: Encoded, hidden: Tensor) -> Encoded:
    """The same texts with other rows."""
    return Encoded(hidden, encoded.tokens, encoded.eos, encoded.pooled, encoded.extras)


def neighbours(model: Model, count: int) -> tuple[Encoded, list[str]]:
    """``count`` prompts of other shapes."""
    others = [(colour, shape) for shape in SHAPES if shape != TARGET for colour in COLOURS]
    chosen = [others[(5 * i) % len(others)] for i in range(count)]
    return model.encode([f"a {colour} {shape}" for colour, shape in chosen]), [shape for _, shape in chosen]


def cells(model: Model, task: Task, erasure: Erasure | None, radius: float, known: Mapping[str, Any]) -> Any:
    """Yields (name, result) of what is not known yet, for one erasure."""
    shapes = [TARGET] * len(task.prompts)
    with apply(model, [] if erasure is None else Membrane(erasure, gate="always"), act_on="weights"):
        if "prompt" not in known:
            yield "prompt", shown(model, task.encoded, task.seeds, shapes)
        if "neighbours" not in known:
            encoded, asked = neighbours(model, len(shapes))
            yield "neighbours", shown(model, encoded, task.seeds, asked)
        if erasure is not None and "attack" not in known:
            yield "attack", shown(model, with_rows(task.encoded, task.attacked(model, radius)), task.seeds, shapes)


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "race.json")
    parser.add_argument("--tuning", action="store_true", help="32 attacks with other seeds, nothing written")
    parser.add_argument("--radius", type=float, default=RADIUS, help="of the attack")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), help="these arms; all by default")
    parser.add_argument("--arm", action="append", help="for tuning: method,name=value,... in place of the two arms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_demo()
    arms = {name: ARMS[name] for name in options.only}
    if options.arm:
        arms = {"no erasure": None}
        for text in options.arm:
            method, *given = text.split(",")
            arms[text] = method, dict(part.split("=", 1) for part in given)
    setting = {"model": model.fingerprint, "detector": load_detector().fingerprint, "radius": options.radius}
    task = Task(model, TUNING if options.tuning else SEEDS)
    for name, arm in arms.items():
        found = {} if options.tuning else records.read(options.out, setting)
        asked = [] if arm is None else [arm[0], {key: str(value) for key, value in arm[1].items()}]
        if found.get(name, {}).get("arm") != asked:
            found[name] = {"arm": asked, "cells": {}}
        mine, erasure = found[name]["cells"], None
        if arm is not None and len(mine) < 3:
            preserve = [shape for shape in SHAPES if shape != TARGET]
            erasure = train(model, f"{TARGET} -> {ANCHOR}", arm[0], preserve=preserve, **arm[1])  # type: ignore[arg-type]
        for cell, result in cells(model, task, erasure, options.radius, mine):
            mine[cell] = result
            if not options.tuning:  # another process may have measured another arm meanwhile
                records.write(options.out, setting, {**records.read(options.out, setting), name: found[name]})
        for cell, (k, n) in mine.items():
            low, high = wilson(k, n)
            print(
                f"{name:40} {cell:11} {k:4}/{n} = {100 * k / n:5.1f} % ({100 * low:.1f}-{100 * high:.1f})", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

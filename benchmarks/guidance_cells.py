"""Pictures without and with a guidance method from the same noise, and what is counted in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erasure_core import guidance
from erasure_core.demo.captions import prompt
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import COLOURS, SHAPES
from erasure_core.guidance import GuidanceTerm
from erasure_core.guidance.attention import attention_negative
from erasure_core.guidance.text import text_steering

STEPS, BATCH, COUNT = 20, 32, 128
SEEDS = {"target": 50_000, "bare": 70_000, "neighbours": 60_000}
ELSEWHERE = 500_000
"""Added to the seeds for drawing the same prompts from other noise."""
ANCHOR = dict(zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True))
Shot = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Method:
    """A method by its spaces: output = (preset, its options), attention and text = options with the method's name.

    ``named``: whether the attention negative is the caption "a circle" instead of the bare word.
    """

    output: tuple[str, str] | None = None
    attention: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False


def shots(shape: str) -> dict[str, list[Shot]]:
    """128 prompts of each set and what they should show; "bare" is the concept's own text."""
    others = [s for s in SHAPES if s != shape]
    crossed = [(COLOURS[(i + i // 7) % 8], others[i % 7]) for i in range(COUNT)]
    return {
        "target": [(prompt(COLOURS[i % 8], shape), {"shape": shape, "colour": COLOURS[i % 8]}) for i in range(COUNT)],
        "bare": [(shape, {"shape": shape})] * COUNT,
        "neighbours": [(prompt(c, s), {"shape": s, "colour": c}) for c, s in crossed],
    }


class Bench:
    """One model, one shape, one guidance scale; what is drawn without any method is drawn once."""

    def __init__(self, model: Any, shape: str, cfg: float) -> None:
        self.model, self.shape, self.cfg = model, shape, cfg
        self._detector, self._shots = load_detector(), shots(shape)
        self._plain = {name: self._draw(name) for name in self._shots}

    def plain(self) -> dict[str, Any]:
        """What is drawn without a method; its drift is that of the same prompts from other noise."""
        other = self._draw("neighbours", shift=ELSEWHERE)["images"]
        return self._record(self._plain, _distance(other, self._plain["neighbours"]["images"]), 0.0)

    def measure(self, method: Method) -> dict[str, Any]:
        """One method. What is fitted to the concept is timed apart from sampling."""
        begun = time.process_time()
        concept = f"{self.shape} -> {ANCHOR[self.shape]}"
        terms = [] if method.output is None else [guidance.make_with(method.output[0], concept, method.output[1])]
        why = " ".join(term.inactive(self.cfg) for term in terms)
        if why and not (method.attention or method.text):  # drawn as without it, to the last bit
            return {**self._record(self._plain, 0.0, 0.0), "inactive": why}
        negative = prompt("", self.shape) if method.named else self.shape
        attention = attention_negative(self.model, negative, **method.attention) if method.attention else None
        change = text_steering(self.model, concept, **method.text) if method.text else None
        fitting = time.process_time() - begun
        found = {name: self._draw(name, terms, attention, change) for name in self._shots}
        drift = _distance(found["neighbours"]["images"], self._plain["neighbours"]["images"])
        return self._record(found, drift, fitting)

    def _record(self, found: Mapping[str, Any], drift: float, fitting: float) -> dict[str, Any]:
        def total(of: Mapping[str, Any], what: str) -> float:
            return float(sum(part[what] for part in of.values()))

        pictures = COUNT * len(found)
        return {
            **{name: part["counts"] for name, part in found.items()},
            "drift": round(drift, 4),
            "evaluations": round(total(found, "rows") / total(self._plain, "rows"), 4),
            "ms per picture": round(1000 * total(found, "seconds") / pictures, 1),
            "ms per picture without": round(1000 * total(self._plain, "seconds") / pictures, 1),
            "s to fit": round(fitting, 2),
        }

    def _draw(
        self,
        name: str,
        terms: Sequence[GuidanceTerm] = (),
        attention: Any = None,
        change: Callable[[Any], Any] | None = None,
        shift: int = 0,
    ) -> dict[str, Any]:
        """A set's latents, timed; then its pictures [128, 3, H, W] and attribute -> [k, n], "garbled" with no shape."""
        wanted, latents = self._shots[name], []
        rows, begun = self.model.evaluations, time.process_time()
        with nullcontext() if attention is None else self.model.steer([attention]):
            for start in range(0, len(wanted), BATCH):
                texts = [text for text, _ in wanted[start : start + BATCH]]
                seeds = [SEEDS[name] + shift + start + i for i in range(len(texts))]
                encoded = self.model.encode(texts)
                steered = encoded if change is None else change(encoded)
                latents.append(self.model.sample(steered, seed=seeds, steps=STEPS, cfg=self.cfg, guidance=terms))
        seconds, rows = time.process_time() - begun, self.model.evaluations - rows
        images = self.model.decode(torch.nan_to_num(torch.cat(latents)))
        counts: dict[str, list[int]] = {}
        for (_, want), reading in zip(wanted, self._detector.read(images), strict=True):
            for attribute, label in [*want.items(), ("garbled", "")]:
                shown = reading["shape"] == "garbled" if attribute == "garbled" else reading[attribute] == label
                k, n = counts.setdefault(attribute, [0, 0])
                counts[attribute] = [k + shown, n + 1]
        return {"images": images, "counts": counts, "rows": rows, "seconds": seconds}


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())

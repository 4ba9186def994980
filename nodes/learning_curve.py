"""The loss of a training as a picture of the host, [1, H, W, 3] in 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .chart import BLUE, GREEN, Line, chart

_PARTS = 120  # of the run, each a mean: single losses jump from step to step


def learning_curve(title: str, losses: Sequence[tuple[float, float]], steps: int) -> Tensor:
    """``losses``: erasing and keeping part of each of the steps made, of ``steps``; on a logarithmic scale."""
    means = {name: _means([pair[i] for pair in losses], steps) for i, name in enumerate(("erasing", "keeping"))}
    values = [value for points in means.values() for _, value in points if value > 0]
    low, high = (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))) if values else (0, 1)
    high = max(high, low + 1)
    lines = [
        Line(name, colour, [(x, (math.log10(y) - low) / (high - low) if y > 0 else None) for x, y in means[name]])
        for name, colour in (("erasing", BLUE), ("keeping", GREEN))
    ]
    last = f"step {len(losses)} of {steps}"
    drawn = chart(
        (title, last + (f", loss {sum(losses[-1]):.3g}" if losses else "")),
        lines,
        [(i / 4, f"{round(i / 4 * steps)}") for i in range(5)],
        [((power - low) / (high - low), f"1e{power}") for power in range(low, high + 1)],
        dots=False,
    )
    return torch.from_numpy(drawn.copy()).float()[None] / 255


def _means(values: Sequence[float], steps: int) -> list[tuple[float, float]]:
    """(place 0..1 of ``steps``, mean) of neighbouring values."""
    size = max(1, math.ceil(steps / _PARTS))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [((i * size + len(part) / 2) / steps, sum(part) / len(part)) for i, part in enumerate(parts)]

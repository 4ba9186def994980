"""ROC curves: points, the area under them, and a small picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STEPS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SIZE, MARGIN = 300, 34
COLOURS = ("#1f6feb", "#c2410c", "#15803d")
Curve = Sequence[Sequence[float]]


def points(found: Sequence[float], wrong: Sequence[float]) -> list[list[float]]:
    """[share of ``wrong`` at or above a threshold, share of ``found``], thresholds so that false alarms rise in steps.

    Each step is the highest share of ``found`` for at most that share of false alarms.
    """
    thresholds = np.concatenate([[np.inf], np.unique([*found, *wrong])[::-1]])
    alarms = 1 - np.searchsorted(np.sort(wrong), thresholds) / len(wrong)
    hits = 1 - np.searchsorted(np.sort(found), thresholds) / len(found)
    kept = [int(np.searchsorted(alarms, step, side="right")) - 1 for step in STEPS]
    return [[round(float(alarms[i]), 4), round(float(hits[i]), 4)] for i in dict.fromkeys(kept)]


def area(found: Sequence[float], wrong: Sequence[float]) -> float:
    """How often one of ``found`` is above one of ``wrong``, ties counting half (Mann-Whitney)."""
    order = np.sort(wrong)
    below = np.searchsorted(order, found, side="left")
    tied = np.searchsorted(order, found, side="right") - below
    return float((below + tied / 2).mean() / len(order))


def sketch(panels: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """A PNG with a panel for each title: false alarms to the right, found upwards, both 0 to 1."""
    from PIL import Image, ImageDraw

    step = SIZE + 2 * MARGIN
    image = Image.new("RGB", (step * len(panels), step), "white")
    draw = ImageDraw.Draw(image)
    for number, (title, curves) in enumerate(panels.items()):
        _panel(draw, step * number + MARGIN, title, curves)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _panel(draw: Any, left: int, title: str, curves: Mapping[str, Curve]) -> None:
    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * SIZE, MARGIN + (1 - y) * SIZE

    draw.rectangle([at(0, 1), at(1, 0)], outline="#888888")
    draw.line([at(0, 0), at(1, 1)], fill="#cccccc")
    for tick in (0.25, 0.5, 0.75):
        draw.line([at(tick, 0), at(tick, 0.02)], fill="#888888")
        draw.line([at(0, tick), at(0.02, tick)], fill="#888888")
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        draw.line([at(0, 0), *(at(x, y) for x, y in curve), at(1, 1)], fill=colour, width=2)
        draw.text(at(0.34, 0.2 - 0.07 * i), name, fill=colour)
    draw.text((left, MARGIN - 16), title, fill="#444444")
    draw.text((left, MARGIN + SIZE + 8), "right: false alarms, up: found, 0 to 1", fill="#444444")

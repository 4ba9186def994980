"""Line charts as pictures: what all plots of the nodes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
INK: Colour = (40, 40, 40)
BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (230, 159, 0)
GREEN: Colour = (0, 158, 115)
_WARNING: Colour = (200, 0, 0)
_SIZE = (640, 300)
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 64, 16, 32
_PAPER, _GRID = (255, 255, 255), (220, 220, 220)
_LEGEND = 150  # pixels per name


@dataclass(frozen=True)
class Line:
    """A line through ``points`` (x, y), both 0..1 from the lower left; None where it is broken."""

    name: str
    colour: Colour
    points: Sequence[tuple[float, float | None]]


def chart(
    titles: Sequence[str],
    lines: Sequence[Line],
    across: Sequence[tuple[float, str]],
    up: Sequence[tuple[float, str]],
    warning: str = "",
    dots: bool = True,
) -> np.ndarray[Any, Any]:
    """One chart [H, W, 3], bytes. ``titles``: two at most; ``across``, ``up``: places 0..1 on the axes, and labels."""
    image = Image.new("RGB", _SIZE, _PAPER)
    pen = ImageDraw.Draw(image)
    width, height = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * x, _TOP + height * (1 - y)

    for row, title in enumerate(titles):
        pen.text((8, 6 + 16 * row), _plain(title)[:90], fill=INK)
    for part, label in up:
        pen.line([place(0, part), place(1, part)], fill=_GRID)
        pen.text((6, place(0, part)[1] - 6), label, fill=INK)
    for part, label in across:
        pen.text((place(part, 0)[0] - 8, _TOP + height + 8), label, fill=INK)
    for column, line in enumerate(lines):
        pen.text((8 + _LEGEND * column, 40), f"- {line.name}", fill=line.colour)
        for (x, y), (next_x, next_y) in pairwise(line.points):
            if y is not None and next_y is not None:
                pen.line([place(x, y), place(next_x, next_y)], fill=line.colour, width=2)
        for x, y in line.points if dots else ():
            if y is not None:
                at_x, at_y = place(x, y)
                pen.ellipse([at_x - 2, at_y - 2, at_x + 2, at_y + 2], fill=line.colour)
    if warning:
        pen.text((8, _SIZE[1] - 14), _plain(warning)[:110], fill=_WARNING)
    return np.asarray(image)


def _plain(text: str) -> str:
    """Text that the built-in letters can show."""
    return text.encode("latin-1", "replace").decode("latin-1")

"""Plots of guidance terms as pictures of the host, [1, H, W, 3] in 0..1."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..erasure_core.errors import BadInput
from . import host
from .curves import Curves
from .guiding import Guiding

_SIZE = (640, 300)
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 64, 16, 32
_PAPER, _INK, _GRID = (255, 255, 255), (40, 40, 40), (220, 220, 220)
_LINES = (("mask density", (0, 114, 178)), ("gate", (230, 159, 0)), ("|term| / |w c|", (0, 158, 115)))


def plots(model: Any, latent: Tensor) -> Tensor:
    """Of the run that gave ``latent``, one below the other. Raises BadInput where there is nothing to plot."""
    guiding: Guiding | None = host.batch_wrapper_of(model)
    found = [entry.curves(latent) for entry in guiding.entries] if guiding else []
    curves = [one for one in found if one is not None]
    if not curves:
        raise BadInput(
            "There is nothing to plot: no sampling with this model's Negative Guidance has ended. Connect the model "
            "that the sampler used and the latent it gave, and do not switch the guidance off."
        )
    return torch.from_numpy(np.concatenate([draw(one) for one in curves])).float()[None] / 255


def draw(curves: Curves) -> np.ndarray[Any, Any]:
    """One plot [H, W, 3], bytes: progress of the run to the right, three lines with one scale."""
    image = Image.new("RGB", _SIZE, _PAPER)
    pen = ImageDraw.Draw(image)
    width, height = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _BOTTOM
    known = [value for row in curves.steps for value in row[1:] if value is not None]
    most = max([1.0, *known])
    plain, further = curves.evaluations
    times = (plain + further) / plain if plain else 1.0
    pen.text((8, 6), _plain(curves.label)[:90], fill=_INK)
    pen.text((8, 22), f"cfg {curves.cfg:g}, {plain + further} evaluations, {times:.2f} times", fill=_INK)

    def place(progress: float, value: float) -> tuple[float, float]:
        return _LEFT + width * progress, _TOP + height * (1 - value / most)

    for i in range(5):
        part = i / 4
        pen.line([place(0, part * most), place(1, part * most)], fill=_GRID)
        pen.text((6, place(0, part * most)[1] - 6), f"{part * most:.3g}", fill=_INK)
        pen.text((place(part, 0)[0] - 8, _TOP + height + 8), f"{part:g}", fill=_INK)
    for column, (name, colour) in enumerate(_LINES, start=1):
        pen.text((8 + 150 * (column - 1), 40), f"- {name}", fill=colour)
        points = [(place(row[0], row[column] or 0.0), row[column] is not None) for row in curves.steps]
        for (one, shown), (other, next_shown) in pairwise(points):
            if shown and next_shown:
                pen.line([one, other], fill=colour, width=2)
        for (x, y), shown in points:
            if shown:
                pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    if curves.warning:
        pen.text((8, _SIZE[1] - 14), _plain(curves.warning)[:110], fill=(200, 0, 0))
    return np.asarray(image)


def _plain(text: str) -> str:
    """Text that the built-in letters can show."""
    return text.encode("latin-1", "replace").decode("latin-1")

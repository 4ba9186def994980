"""Plots of guidance terms as pictures of the host, [1, H, W, 3] in 0..1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..erasure_core.errors import BadInput
from . import host
from .chart import BLUE, GREEN, ORANGE, Line, chart
from .curves import Curves
from .guiding import Guiding

_LINES = (("mask density", BLUE), ("gate", ORANGE), ("|term| / |w c|", GREEN))


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
    known = [value for row in curves.steps for value in row[1:] if value is not None]
    most = max([1.0, *known])
    plain, further = curves.evaluations
    times = (plain + further) / plain if plain else 1.0
    lines = [
        Line(name, colour, [(row[0], None if (y := row[column]) is None else y / most) for row in curves.steps])
        for column, (name, colour) in enumerate(_LINES, start=1)
    ]
    return chart(
        (curves.label, f"cfg {curves.cfg:g}, {plain + further} evaluations, {times:.2f} times"),
        lines,
        [(i / 4, f"{i / 4:g}") for i in range(5)],
        [(i / 4, f"{i / 4 * most:.3g}") for i in range(5)],
        curves.warning,
    )

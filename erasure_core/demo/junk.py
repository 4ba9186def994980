"""Drawings that no honest judge should put a name to: what the detector learns to call garbled.

Every kind returns a picture [64, 64, 3] (float32, 0..255) and its targets: attribute -> label, "garbled", or missing
where the question has no clear answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .shapes import Field
from .world import (
    ATTRIBUTES,
    GARBLED,
    SHAPES,
    SIZE,
    Scene,
    coverage,
    distance,
    grid,
    masks,
    paints,
    random_scene,
    render,
)

Drawing = tuple[NDArray[np.float32], dict[str, str]]
_GRID = grid()
_COARSE = (_GRID[0][::4, ::4], _GRID[1][::4, ::4])


def _smooth(field: Field, sigma: float) -> Field:
    """Gaussian blur of the first two axes by multiplication in the frequency domain (periodic, sigma in pixels)."""
    rows, columns = (
        np.fft.fftfreq(n)[:, None] if i == 0 else np.fft.rfftfreq(n) for i, n in enumerate(field.shape[:2])
    )
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + columns**2))
    gain = gain.reshape(gain.shape + (1,) * (field.ndim - 2))
    return np.fft.irfft2(np.fft.rfft2(field, axes=(0, 1)) * gain, field.shape[:2], axes=(0, 1))


def _noise(rng: np.random.Generator, sigma: float, channels: int) -> Field:
    """Smooth noise [64, 64, channels] of unit variance, features about ``sigma`` pixels wide."""
    field = _smooth(rng.standard_normal((SIZE, SIZE, channels)), sigma)
    return field / field.std((0, 1), keepdims=True)


def _fill(scene: Scene, cover: Field) -> NDArray[np.float32]:
    shape, background, _ = paints(scene)
    return (background + cover * (shape - background)).astype(np.float32)


def empty(rng: np.random.Generator) -> Drawing:
    """A background with nothing on it, flat or slightly uneven."""
    scene = random_scene(rng)
    uneven = _noise(rng, rng.uniform(3, 10), 3) * rng.uniform(0, 8)
    labels = dict.fromkeys(("shape", "colour", "style"), GARBLED)
    return (paints(scene)[1] + uneven).astype(np.float32), {**labels, "background": scene.background}


def texture(rng: np.random.Generator) -> Drawing:
    """Coloured noise all over."""
    field = _noise(rng, float(np.exp(rng.uniform(-1, 2))), 3)
    picture = 128 + rng.uniform(-60, 60, 3) + field * rng.uniform(35, 80)
    return picture.astype(np.float32), dict.fromkeys(ATTRIBUTES, GARBLED)


def blob(rng: np.random.Generator) -> Drawing:
    """Islands of one colour with random outlines."""
    scene = random_scene(rng)
    field = _noise(rng, rng.uniform(2.5, 5), 1)
    x, y = np.meshgrid(np.arange(SIZE) - 31.5, np.arange(SIZE) - 31.5)
    field = field - 2.5 * np.maximum(0, np.hypot(x, y)[..., None] / 22 - 0.6)
    cover = np.clip(0.5 + 3 * (field - np.quantile(field, rng.uniform(0.78, 0.9))), 0, 1)
    return _fill(scene, cover), {"shape": GARBLED, "colour": scene.colour, "background": scene.background}


def fragment(rng: np.random.Generator) -> Drawing:
    """What a straight cut leaves of a shape: 15 to 40 % of its area."""
    scene = random_scene(rng)
    shape, background, white = paints(scene)
    angle = rng.uniform(0, 2 * np.pi)
    side = np.cos(angle) * _GRID[0] + np.sin(angle) * _GRID[1]
    inside = distance(scene, *_GRID) < 0
    kept = side > np.quantile(side[inside], rng.uniform(0.6, 0.85))
    colour_mask, white_mask = masks(scene, *_GRID)
    picture = background + coverage(colour_mask & kept) * (shape - background)
    picture = picture + coverage(white_mask & kept) * (white - background)
    return picture.astype(np.float32), {"shape": GARBLED, "colour": scene.colour, "background": scene.background}


def overlap(rng: np.random.Generator) -> Drawing:
    """Two different shapes over each other, both plainly visible."""
    while True:
        first = random_scene(rng)
        other = str(rng.choice([name for name in SHAPES if name != first.shape]))
        dx, dy = rng.uniform(-12, 12, 2)
        centre = (float(np.clip(first.centre[0] + dx, 18, 46)), float(np.clip(first.centre[1] + dy, 18, 46)))
        second = replace(random_scene(rng), shape=other, centre=centre)
        one, two = (distance(scene, *_COARSE) < 0 for scene in (first, second))
        union = (one | two).sum()
        if (one & ~two).sum() > 0.3 * union and (two & ~one).sum() > 0.3 * union:
            break
    shape, _, _ = paints(second)
    top = coverage(masks(second, *_GRID)[0])
    picture = render(first) * (1 - top) + top * shape
    labels = {"shape": GARBLED, "background": first.background}
    if first.colour == second.colour:
        labels["colour"] = first.colour
    return picture.astype(np.float32), labels


def melted(rng: np.random.Generator) -> Drawing:
    """A picture blurred until its shape is a matter of opinion."""
    return _smooth(render(random_scene(rng)).astype(np.float32), rng.uniform(7, 11)).astype(np.float32), {
        "shape": GARBLED,
        "style": GARBLED,
    }


def warped(rng: np.random.Generator) -> Drawing:
    """A picture whose pixels were moved about by smooth noise of 7 to 12 pixels."""
    scene = random_scene(rng)
    move = _noise(rng, rng.uniform(3.5, 5.5), 2) * rng.uniform(7, 12)
    rows, columns = np.indices((SIZE, SIZE))
    at = (np.clip(rows + move[..., 0], 0, SIZE - 1), np.clip(columns + move[..., 1], 0, SIZE - 1))
    picture = render(scene)[at[0].astype(int), at[1].astype(int)].astype(np.float32)
    return _smooth(picture, 0.6).astype(np.float32), {"shape": GARBLED, "background": scene.background}


JUNK: Mapping[str, Callable[[np.random.Generator], Drawing]] = {
    "empty": empty,
    "texture": texture,
    "blob": blob,
    "fragment": fragment,
    "overlap": overlap,
    "melted": melted,
    "warped": warped,
}

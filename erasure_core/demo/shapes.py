"""Signed distances of the eight shapes: negative inside, in pixels, zero on the edge.

Every function takes point arrays ``x, y`` (pixels from the centre, y downwards, already turned upright) and the radius
``r`` in pixels. Inside, the magnitude is the distance to the edge (exact or a close lower bound), which is what the
rims and outlines of the styles are cut from. Outside only the sign is meaningful.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]


def circle(x: Field, y: Field, r: float) -> Field:
    """Disc of radius r."""
    return np.hypot(x, y) - r


def square(x: Field, y: Field, r: float) -> Field:
    """Square of half side 0.86 r."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.86 * r


def triangle(x: Field, y: Field, r: float) -> Field:
    """Equilateral triangle with a corner on top, circumscribed radius 1.2 r."""
    slant = 0.8660254 * np.abs(x) - 0.5 * y
    return np.maximum(slant, y) - 0.6 * r


def star(x: Field, y: Field, r: float) -> Field:
    """Five-pointed star, one tip up, tip radius 1.3 r: the points that lie beyond at most one of its five lines."""
    first: Field = np.full_like(x, -np.inf)
    second = first
    for turn in range(5):
        angle = np.pi * (0.4 * turn - 0.5)  # the first line is the level one below the upper tip; y points down
        side = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        second = np.maximum(second, np.minimum(first, side))
        first = np.maximum(first, side)
    return second - np.float32(0.309017 * 1.3 * r)


def heart(x: Field, y: Field, r: float) -> Field:
    """Heart: a square on its tip with half discs on its two upper sides, 2.1 r wide and 1.9 r high."""
    half = 0.615 * r
    up = y - 0.09 * r
    along, across = 0.7071068 * (np.abs(x) + up), 0.7071068 * (np.abs(x) - up)
    box = np.maximum(np.abs(along), np.abs(across)) - half
    lobe = np.hypot(along, across - half) - half
    return np.minimum(box, lobe)


def cross(x: Field, y: Field, r: float) -> Field:
    """Upright cross: arms 2 r long and 0.68 r wide."""
    wide, high = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(wide - r, high - 0.34 * r), np.maximum(high - r, wide - 0.34 * r))


def moon(x: Field, y: Field, r: float) -> Field:
    """Crescent open to the right: a disc of radius 1.1 r without a smaller one."""
    return np.maximum(np.hypot(x, y) - 1.1 * r, 0.88 * r - np.hypot(x - 0.55 * r, y))


def ring(x: Field, y: Field, r: float) -> Field:
    """Ring between 0.44 r and r."""
    return np.abs(np.hypot(x, y) - 0.72 * r) - 0.28 * r


DISTANCES: Mapping[str, Callable[[Field, Field, float], Field]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "moon": moon,
    "ring": ring,
}

EXTENTS: Mapping[str, float] = {
    "circle": 1.0,
    "square": 1.22,
    "triangle": 1.2,
    "star": 1.3,
    "heart": 1.18,
    "cross": 1.06,
    "moon": 1.1,
    "ring": 1.0,
}
"""Distance of the farthest point from the centre, in radii."""

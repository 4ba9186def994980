"""Shapes world: 64 x 64 pictures of one coloured shape, drawn from a few numbers. numpy only.

The bundled model learned nothing but these pictures, so each of its concepts can be erased and the result read off by a
classifier (:mod:`.detector`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shapes import DISTANCES, EXTENTS, Field

SIZE = 64
OVERSAMPLING = 4

COLOUR_RGB: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (245, 125, 15),
    "yellow": (245, 222, 40),
    "green": (35, 150, 55),
    "cyan": (45, 200, 215),
    "blue": (35, 70, 210),
    "purple": (125, 45, 170),
    "pink": (245, 125, 190),
}
NEUTRAL_RGB: Mapping[str, tuple[int, int, int]] = {"white": (250,) * 3, "gray": (150,) * 3, "black": (15,) * 3}
PALETTE: Mapping[str, tuple[int, int, int]] = {**COLOUR_RGB, **NEUTRAL_RGB}

SHAPES: tuple[str, ...] = tuple(DISTANCES)
COLOURS: tuple[str, ...] = tuple(COLOUR_RGB)
STYLES: tuple[str, ...] = ("solid", "striped", "dotted", "outlined")
NEUTRAL_BACKGROUNDS: tuple[str, ...] = tuple(NEUTRAL_RGB)
BACKGROUNDS: tuple[str, ...] = tuple(PALETTE)
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "style": STYLES,
    "background": BACKGROUNDS,
}

GARBLED = "garbled"
"""Label of an attribute that nobody could name: used for the detector's answers, never for scenes."""

SHAPE_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "circle": ("disc",),
    "square": ("box",),
    "triangle": ("pyramid",),
    "star": ("pentagram",),
    "heart": ("valentine",),
    "cross": ("plus sign",),
    "moon": ("crescent",),
    "ring": ("hoop",),
}
COLOUR_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine",),
    "yellow": ("golden",),
    "green": ("emerald",),
    "cyan": ("turquoise",),
    "blue": ("azure",),
    "purple": ("violet",),
    "pink": ("rose",),
}
STYLE_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "solid": ("plain", "filled"),
    "striped": ("stripy", "stripes"),
    "dotted": ("polka dot", "spotted", "dots"),
    "outlined": ("hollow", "outline"),
}

MAX_ROTATION: Mapping[str, float] = {
    "circle": 0.0,
    "square": 20.0,
    "triangle": 20.0,
    "star": 20.0,
    "heart": 20.0,
    "cross": 25.0,
    "moon": 30.0,
    "ring": 0.0,
}
"""Largest turn either way, in degrees: small enough that no shape reads as another."""

STYLE_SHARES = (0.4, 0.2, 0.2, 0.2)
COLOURED_BACKGROUNDS = 0.42
RADIUS = (15.5, 22.0)
MAX_SHIFT = 8.0
TINT = 9

STRIPE_PERIOD, STRIPE_WHITE = 9.5, 4.4
DOT_PERIOD, DOT_RADIUS = 9.0, 2.5
RIM, STROKE = 1.8, 3.2


@dataclass(frozen=True)
class Scene:
    """Everything a picture is drawn from.

    ``radius`` and ``centre`` (x, y) in pixels, ``rotation`` in degrees, ``phase`` (two numbers in 0..1: where the
    stripes or dots start, in periods), ``tint`` nine offsets of 8-bit RGB for shape, background and white paint.
    """

    shape: str
    colour: str
    style: str = "solid"
    background: str = "white"
    radius: float = 19.0
    centre: tuple[float, float] = (32.0, 32.0)
    rotation: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)
    tint: tuple[int, ...] = (0,) * 9

    @property
    def labels(self) -> dict[str, str]:
        """Attribute name -> label."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def random_scene(
    rng: np.random.Generator,
    coloured: float = COLOURED_BACKGROUNDS,
    style_shares: Sequence[float] = STYLE_SHARES,
) -> Scene:
    """A scene with every attribute and all jitter drawn at random.

    ``coloured``: share of coloured backgrounds, 0..1. ``style_shares``: of the four styles, adding up to 1.
    """
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(COLOURS))
    others = [name for name in COLOURS if name != colour] if rng.random() < coloured else NEUTRAL_BACKGROUNDS
    radius = float(rng.uniform(*RADIUS))
    shift = min(MAX_SHIFT, SIZE / 2 - 1 - EXTENTS[shape] * radius)
    return Scene(
        shape=shape,
        colour=colour,
        style=str(rng.choice(STYLES, p=style_shares)),
        background=str(rng.choice(others)),
        radius=radius,
        centre=(float(32 + rng.uniform(-shift, shift)), float(32 + rng.uniform(-shift, shift))),
        rotation=float(rng.uniform(-1, 1) * MAX_ROTATION[shape]),
        phase=(float(rng.random()), float(rng.random())),
        tint=tuple(int(value) for value in rng.integers(-TINT, TINT + 1, 9)),
    )


def grid(size: int = SIZE) -> tuple[Field, Field]:
    """Sample positions x, y [4 size, 4 size] in pixels, four each way inside every pixel."""
    steps = (np.arange(size * OVERSAMPLING, dtype=np.float32) + 0.5) / OVERSAMPLING
    x, y = np.meshgrid(steps, steps)
    return x, y


_GRID = grid()


def distance(scene: Scene, x: Field, y: Field) -> Field:
    """Signed distance to the scene's shape at picture positions x, y (pixels)."""
    turn = np.deg2rad(scene.rotation)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = x - np.float32(scene.centre[0]), y - np.float32(scene.centre[1])
    return DISTANCES[scene.shape](cos * dx + sin * dy, cos * dy - sin * dx, scene.radius)


def _white(scene: Scene, x: Field, y: Field) -> NDArray[np.bool_]:
    """Where the stripes or dots are."""
    if scene.style == "striped":
        across = (x - y) * 0.7071068 + scene.phase[0] * STRIPE_PERIOD
        return across % STRIPE_PERIOD < STRIPE_WHITE
    column = x / DOT_PERIOD + scene.phase[0]
    row = y / DOT_PERIOD + scene.phase[1] + 0.5 * (np.floor(column) % 2)
    return np.hypot(column % 1 - 0.5, row % 1 - 0.5) < DOT_RADIUS / DOT_PERIOD


def masks(scene: Scene, x: Field, y: Field) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the colour and where the white paint of stripes and dots goes, at positions x, y."""
    depth = -distance(scene, x, y)
    inside = depth > 0
    if scene.style == "solid":
        return inside, np.zeros_like(inside)
    if scene.style == "outlined":
        return inside & (depth < STROKE), np.zeros_like(inside)
    white = (depth > RIM) & _white(scene, x, y)
    return inside & ~white, white


def coverage(mask: NDArray[np.bool_]) -> Field:
    """Share of each pixel that a 4x mask [4h, 4w] covers, [h, w, 1] in 0..1."""
    h, w = (side // OVERSAMPLING for side in mask.shape)
    return mask.reshape(h, OVERSAMPLING, w, OVERSAMPLING).mean((1, 3), dtype=np.float32)[..., None]


def paints(scene: Scene) -> tuple[Field, Field, Field]:
    """Tinted RGB of shape, background and white paint, 0..255."""
    base = np.array([COLOUR_RGB[scene.colour], PALETTE[scene.background], (255, 255, 255)], np.float32)
    shape, background, white = np.clip(base + np.array(scene.tint, np.float32).reshape(3, 3), 0, 255)
    return shape, background, white


def render(scene: Scene) -> NDArray[np.uint8]:
    """The picture [64, 64, 3], 8-bit RGB."""
    shape, background, white = paints(scene)
    reach = EXTENTS[scene.shape] * scene.radius + 1
    x0, y0 = (max(0, int(c - reach)) for c in scene.centre)
    x1, y1 = (min(SIZE, int(c + reach) + 2) for c in scene.centre)
    window = tuple(slice(a * OVERSAMPLING, b * OVERSAMPLING) for a, b in ((y0, y1), (x0, x1)))
    colour_mask, white_mask = masks(scene, _GRID[0][window], _GRID[1][window])
    picture = np.broadcast_to(background, (SIZE, SIZE, 3)).copy()
    part = picture[y0:y1, x0:x1]
    part += coverage(colour_mask) * (shape - background)
    if white_mask.any():
        part += coverage(white_mask) * (white - background)
    return np.round(picture).astype(np.uint8)

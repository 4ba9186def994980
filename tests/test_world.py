"""The drawings: sizes, colours, styles, reproducibility and what distinguishes the shapes."""

import dataclasses
import hashlib

import numpy as np
import pytest

from erasure_core.demo.world import (
    BACKGROUNDS,
    COLOUR_RGB,
    COLOURS,
    MAX_ROTATION,
    NEUTRAL_BACKGROUNDS,
    PALETTE,
    SHAPES,
    STYLES,
    Scene,
    random_scene,
    render,
)

# Areas in units of r^2 by plane geometry, worked out by hand from the sizes given in the shapes' documentation.
PENTAGRAM = 10 * 0.5 * 1.3 * (1.3 * 0.381966) * np.sin(np.pi / 5)
LENS_HEIGHT = (1 - 0.64 + 0.25) / (2 * 0.5)
LENS = (
    np.arccos(LENS_HEIGHT)
    + 0.64 * np.arccos((0.5 - LENS_HEIGHT) / 0.8)
    - LENS_HEIGHT * np.sqrt(1 - LENS_HEIGHT**2)
    - (0.5 - LENS_HEIGHT) * np.sqrt(0.64 - (0.5 - LENS_HEIGHT) ** 2)
)
AREAS = {
    "circle": np.pi,
    "square": 1.72**2,
    "triangle": 3 * np.sqrt(3) / 4 * 1.2**2,
    "star": PENTAGRAM,
    "heart": 1.23**2 + np.pi * 0.615**2,
    "cross": 2 * 2 * 0.68 - 0.68**2,
    "moon": 1.1**2 * (np.pi - LENS),
    "ring": np.pi * (1 - 0.44**2),
}


def colour_share(picture: np.ndarray, colour: str) -> float:
    """Pixels nearer to the colour than to any other colour of the palette."""
    palette = np.array(list(PALETTE.values()), float)
    gaps = np.linalg.norm(picture[:, :, None].astype(float) - palette, axis=-1)
    return float((gaps.argmin(-1) == list(PALETTE).index(colour)).sum())


def test_names() -> None:
    assert (len(SHAPES), len(COLOURS), len(STYLES), len(BACKGROUNDS)) == (8, 8, 4, 11)
    assert set(COLOURS) | set(NEUTRAL_BACKGROUNDS) == set(BACKGROUNDS)


@pytest.mark.parametrize("shape", SHAPES)
def test_area_is_that_of_the_figure(shape: str) -> None:
    picture = render(Scene(shape, "red", background="white", radius=20.0)).astype(float)
    cover = (250 - picture[..., 1]) / (250 - 30)
    assert cover.min() >= 0
    assert cover.max() <= 1
    assert cover.sum() == pytest.approx(AREAS[shape] * 400, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_turning_keeps_the_area_and_no_shape_is_cut_off(shape: str) -> None:
    areas = []
    for turn in (-MAX_ROTATION[shape], 0.0, MAX_ROTATION[shape]):
        picture = render(Scene(shape, "blue", radius=22.0, rotation=turn)).astype(float)
        areas.append(((250 - picture) / (250 - np.array(COLOUR_RGB["blue"]))).mean(-1).sum())
        assert (picture[[0, -1]] == 250).all()
        assert (picture[:, [0, -1]] == 250).all()
    assert areas[0] == pytest.approx(areas[1], rel=0.01)
    assert areas[2] == pytest.approx(areas[1], rel=0.01)


def test_shift_moves_the_picture() -> None:
    at_rest = render(Scene("star", "green", radius=16.0))
    moved = render(Scene("star", "green", radius=16.0, centre=(37.0, 28.0)))
    assert np.array_equal(np.roll(at_rest, (-4, 5), (0, 1)), moved)


@pytest.mark.parametrize("shape", SHAPES)
def test_styles_leave_less_of_the_colour_but_the_same_outline(shape: str) -> None:
    share = {style: colour_share(render(Scene(shape, "blue", style, "black", radius=21.0)), "blue") for style in STYLES}
    for style in STYLES[1:]:
        assert 0.2 < share[style] / share["solid"] < 0.98
    white = {
        style: colour_share(render(Scene(shape, "blue", style, "black", radius=21.0)), "white") for style in STYLES
    }
    assert white["solid"] == white["outlined"] == 0
    assert white["striped"] > white["dotted"] > 0


def test_stripes_run_at_45_degrees() -> None:
    picture = render(Scene("square", "blue", "striped", radius=22.0)).astype(int)[18:46, 18:46, 0]
    along = np.abs(picture[1:, 1:] - picture[:-1, :-1]).mean()
    across = np.abs(picture[1:, :-1] - picture[:-1, 1:]).mean()
    assert along == 0
    assert across > 20


def test_random_scenes_follow_the_table() -> None:
    scenes = [random_scene(np.random.default_rng([3, i])) for i in range(2000)]
    assert all(scene.background != scene.colour for scene in scenes)
    assert np.mean([s.background in COLOURS for s in scenes]) == pytest.approx(0.42, abs=0.05)
    assert np.mean([s.style == "solid" for s in scenes]) == pytest.approx(0.4, abs=0.05)
    assert all(15.5 <= s.radius <= 22 and max(abs(c - 32) for c in s.centre) <= 8 for s in scenes)
    assert {s.shape for s in scenes} == set(SHAPES)
    assert all(len(s.tint) == 9 and max(map(abs, s.tint)) <= 9 for s in scenes)


def test_same_numbers_same_picture() -> None:
    one, two = (random_scene(np.random.default_rng(5)) for _ in range(2))
    assert one == two
    assert np.array_equal(render(one), render(two))
    assert not np.array_equal(render(one), render(dataclasses.replace(one, tint=(9,) * 9)))


def test_drawings_do_not_change_between_versions() -> None:
    # the detector's and the model's measured figures hold for these very drawings
    scene = Scene("heart", "pink", "dotted", "gray", 19.0, (30.0, 33.0), 10.0, (0.25, 0.5), (1, -2, 3) * 3)
    picture = render(scene)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert picture[2, 2].tolist() == [151, 148, 153]
    assert hashlib.sha256((picture // 8).tobytes()).hexdigest()[:12] == "ff8b16f1012b"

"""The contact sheet: size, what is on it, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from erasure_core.errors import BadInput, CannotWrite
from erasure_core.evaluation.sheet import BAD, GOOD, PICTURE, WIDTH, Section, Shown, Tile, contact_sheet


def _tile(colour, good=None, prompt="a red circle", size=(64, 64)):
    picture = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, *size)
    return Tile(prompt, Shown(picture, "red circle"), Shown(picture, "red square", good))


def _count(image, colour):
    return int((np.asarray(image) == colour).all(axis=-1).sum())


def test_pictures_marks_and_sections_are_on_the_sheet(tmp_path):
    sections = [
        Section("Target", "should go", [_tile((9, 8, 7), True), _tile((90, 8, 7), False)]),
        Section("Empty", "", []),
    ]
    path = contact_sheet(
        sections, "Erasing circle", "same seed", tmp_path / "new" / "sheet.png", ["circle 16/16 -> 0/16"]
    )
    with Image.open(path) as image:
        assert image.size[0] == WIDTH
        image = image.convert("RGB")
        assert image.getpixel((2, 2)) == (255, 255, 255)
        first, second = _count(image, (9, 8, 7)), _count(image, (90, 8, 7))
        assert 1.8 * PICTURE**2 < first <= 2 * PICTURE**2
        assert 1.8 * PICTURE**2 < second <= 2 * PICTURE**2
        assert _count(image, GOOD) > 500
        assert _count(image, BAD) > 500


def test_each_four_tiles_add_a_row(tmp_path):
    heights = []
    for count in (1, 4, 5, 9):
        path = contact_sheet([Section("T", "", [_tile((1, 2, 3))] * count)], "t", "s", tmp_path / f"{count}.png")
        with Image.open(path) as image:
            heights.append(image.size[1])
    assert heights[0] == heights[1] < heights[2] < heights[3]
    assert heights[3] - heights[2] == heights[2] - heights[1] > PICTURE


def test_large_wide_and_oddly_named_pictures_fit(tmp_path):
    tiles = [_tile((9, 9, 9), True, "x" * 400, (512, 1024)), _tile((9, 9, 9), False, "猫 \n\t emoji 🎨", (30, 20))]
    with Image.open(contact_sheet([Section("T", "n", tiles)], "t", "s", tmp_path / "sheet.png")) as image:
        assert image.size[0] == WIDTH
        assert (np.asarray(image.convert("RGB"))[:, -30:] == 255).all(), "nothing runs over the right edge"


def test_the_same_sheet_is_the_same_file(tmp_path):
    made = [contact_sheet([Section("T", "n", [_tile((5, 5, 5))])], "t", "s", tmp_path / name) for name in ("a", "b")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_refusals(tmp_path):
    with pytest.raises(BadInput, match="no pictures"):
        contact_sheet([Section("T", "n", [])], "t", "s", tmp_path / "sheet.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match=r"sheet\.png"):
        contact_sheet([Section("T", "n", [_tile((5, 5, 5))])], "t", "s", tmp_path / "file" / "sheet.png")

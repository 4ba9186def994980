"""One picture that shows what a membrane did: before and after side by side, what was read, right or wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..atomic import write_bytes
from ..errors import BadInput
from .cache import to_image

WIDTH = 1600
MARGIN = 40
TILES = 4
GAP = 28
PICTURE = (((WIDTH - 2 * MARGIN - (TILES - 1) * GAP) // TILES) - 8) // 2
HEAD = 56
TILE_HEIGHT = HEAD + PICTURE + 38

Colour = tuple[int, int, int]
INK, PALE, RULE = (28, 32, 40), (105, 113, 125), (222, 226, 232)
GOOD, BAD = (24, 134, 72), (200, 40, 45)


@dataclass(frozen=True)
class Shown:
    """One picture of a pair: uint8 [3, H, W], what was read on it, and whether that is as wished (None: no mark)."""

    picture: Tensor
    text: str
    good: bool | None = None


@dataclass(frozen=True)
class Tile:
    """A prompt with its picture before and after, same seed."""

    prompt: str
    before: Shown
    after: Shown


@dataclass(frozen=True)
class Section:
    """A heading, a line that says what to look for, and tiles, four in a row."""

    title: str
    note: str
    tiles: Sequence[Tile]


def contact_sheet(
    sections: Sequence[Section], title: str, subtitle: str, path: Path | str, footer: Sequence[str] = ()
) -> Path:
    """Write a PNG 1600 pixels wide with all sections; raises :class:`BadInput` for none, :class:`CannotWrite`."""
    if not any(section.tiles for section in sections):
        raise BadInput("There are no pictures to put on a contact sheet.")
    height = 140 + sum(_section_height(section) for section in sections) + 40 * len(footer) + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, 32), title, WIDTH - 2 * MARGIN, INK, (40, 24))
    _write(draw, (MARGIN, 88), subtitle, WIDTH - 2 * MARGIN, PALE, (22, 16))
    top = 140
    for section in sections:
        _draw_section(sheet, draw, section, top)
        top += _section_height(section)
    for line in footer:
        _write(draw, (MARGIN, top), line, WIDTH - 2 * MARGIN, INK, (24, 16))
        top += 40
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return write_bytes(Path(path), stream.getvalue())


def _section_height(section: Section) -> int:
    rows = (len(section.tiles) + TILES - 1) // TILES
    return 84 + rows * (TILE_HEIGHT + 12) if rows else 0


def _draw_section(sheet: Image.Image, draw: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    if not section.tiles:
        return
    draw.line((MARGIN, top + 4, WIDTH - MARGIN, top + 4), fill=RULE, width=2)
    _write(draw, (MARGIN, top + 20), section.title, WIDTH // 2, INK, (30, 20))
    left = MARGIN + min(WIDTH // 2, int(draw.textlength(_plain(section.title), font=_font(30)))) + 20
    _write(draw, (left, top + 28), section.note, WIDTH - MARGIN - left, PALE, (21, 14))
    for place, tile in enumerate(section.tiles):
        row, column = divmod(place, TILES)
        x = MARGIN + column * (2 * PICTURE + 8 + GAP)
        _draw_tile(sheet, draw, tile, x, top + 76 + row * (TILE_HEIGHT + 12))


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    _write(draw, (left, top), tile.prompt, 2 * PICTURE + 8, INK, (22, 16))
    for column, (word, shown) in enumerate((("before", tile.before), ("after", tile.after))):
        x, y = left + column * (PICTURE + 8), top + HEAD
        draw.text((x, y - 22), word, fill=PALE, font=_font(16))
        sheet.paste(_scaled(shown.picture), (x, y))
        frame, width = (RULE, 1) if shown.good is None else (GOOD if shown.good else BAD, 4)
        draw.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), outline=frame, width=width)
        _draw_reading(draw, shown, x, y + PICTURE + 6)


def _draw_reading(draw: ImageDraw.ImageDraw, shown: Shown, x: int, y: int) -> None:
    """What was read, behind a tick or a cross (shapes, not only colours: some people see no red and green)."""
    if shown.good is None:
        _write(draw, (x, y), shown.text, PICTURE, PALE, (19, 14))
        return
    colour = GOOD if shown.good else BAD
    if shown.good:
        draw.line(((x + 1, y + 12), (x + 6, y + 18), (x + 15, y + 5)), fill=colour, width=4, joint="curve")
    else:
        draw.line((x + 2, y + 5, x + 14, y + 18), fill=colour, width=4)
        draw.line((x + 2, y + 18, x + 14, y + 5), fill=colour, width=4)
    _write(draw, (x + 22, y), shown.text, PICTURE - 22, colour, (19, 14))


def _scaled(picture: Tensor) -> Image.Image:
    """The picture as a square tile: letters of pixels would distract, so it is scaled smoothly."""
    image = to_image(picture)
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    if max(image.size) < PICTURE:
        scale = PICTURE / max(image.size)
        wanted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(wanted, Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (PICTURE, PICTURE), "white")
    tile.paste(image, ((PICTURE - image.width) // 2, (PICTURE - image.height) // 2))
    return tile


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: Colour, sizes: tuple[int, int]
) -> None:
    """One line in the largest of the sizes that fits into ``width`` pixels; cut with dots if none does."""
    text = _plain(text)
    largest, smallest = sizes
    for size in range(largest, smallest - 1, -1):
        if draw.textlength(text, font=_font(size)) <= width:
            # Smaller letters stand on the line of the larger ones.
            draw.text((place[0], place[1] + largest - size), text, fill=colour, font=_font(size))
            return
    text = text[: width // 2]  # no letter is narrower than two pixels
    while text and draw.textlength(text + "...", font=_font(smallest)) > width:
        text = text[:-1]
    line = (place[0], place[1] + largest - smallest)
    draw.text(line, text.rstrip() + "...", fill=colour, font=_font(smallest))


def _plain(text: str) -> str:
    """One line of the characters that the font has."""
    return " ".join(text.replace("–", "-").replace("→", "->").split())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: no file to ship, the same on every machine."""
    return ImageFont.load_default(size=size)

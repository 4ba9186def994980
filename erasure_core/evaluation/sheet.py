"""One picture that shows what a membrane did: before and after side by side, what was read, right or wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import BadInput
from .cache import to_image
from .files import write_whole

WIDTH = 1600
MARGIN = 40
TILES = 4
GAP = 28
PICTURE = (((WIDTH - 2 * MARGIN - (TILES - 1) * GAP) // TILES) - 8) // 2
CAPTION = 62
TILE_HEIGHT = 34 + PICTURE + CAPTION

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
    draw.text((MARGIN, 32), title, fill=INK, font=_font(40))
    draw.text((MARGIN, 88), subtitle, fill=PALE, font=_font(22))
    top = 140
    for section in sections:
        _draw_section(sheet, draw, section, top)
        top += _section_height(section)
    for line in footer:
        draw.text((MARGIN, top), line, fill=INK, font=_font(24))
        top += 40
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return write_whole(Path(path), stream.getvalue())


def _section_height(section: Section) -> int:
    rows = (len(section.tiles) + TILES - 1) // TILES
    return 84 + rows * (TILE_HEIGHT + 12) if rows else 0


def _draw_section(sheet: Image.Image, draw: ImageDraw.ImageDraw, section: Section, top: int) -> None:
    if not section.tiles:
        return
    draw.line((MARGIN, top + 4, WIDTH - MARGIN, top + 4), fill=RULE, width=2)
    draw.text((MARGIN, top + 20), section.title, fill=INK, font=_font(30))
    left = MARGIN + int(draw.textlength(section.title, font=_font(30))) + 20
    draw.text((left, top + 29), section.note, fill=PALE, font=_font(21))
    for place, tile in enumerate(section.tiles):
        row, column = divmod(place, TILES)
        x = MARGIN + column * (2 * PICTURE + 8 + GAP)
        _draw_tile(sheet, draw, tile, x, top + 76 + row * (TILE_HEIGHT + 12))


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    draw.text((left, top), _fit(draw, tile.prompt, 22, 2 * PICTURE + 8), fill=INK, font=_font(22))
    for column, (word, shown) in enumerate((("before", tile.before), ("after", tile.after))):
        x, y = left + column * (PICTURE + 8), top + 34
        sheet.paste(_scaled(shown.picture), (x, y))
        draw.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), outline=RULE, width=1)
        if shown.good is not None:
            draw.rectangle((x, y, x + PICTURE - 1, y + PICTURE - 1), outline=GOOD if shown.good else BAD, width=4)
        draw.text((x, y + PICTURE + 4), word, fill=PALE, font=_font(16))
        _draw_reading(draw, shown, x, y + PICTURE + 24)


def _draw_reading(draw: ImageDraw.ImageDraw, shown: Shown, x: int, y: int) -> None:
    """What was read, behind a tick or a cross (shapes, not only colours: some people see no red and green)."""
    if shown.good is None:
        draw.text((x, y), _fit(draw, shown.text, 20, PICTURE), fill=INK, font=_font(20))
        return
    if shown.good:
        draw.line(((x + 1, y + 12), (x + 6, y + 18), (x + 15, y + 5)), fill=GOOD, width=4, joint="curve")
    else:
        draw.line((x + 2, y + 5, x + 14, y + 18), fill=BAD, width=4)
        draw.line((x + 2, y + 18, x + 14, y + 5), fill=BAD, width=4)
    text = _fit(draw, shown.text, 20, PICTURE - 24)
    draw.text((x + 22, y), text, fill=GOOD if shown.good else BAD, font=_font(20))


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


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """The text, cut with dots where it is wider than ``width`` pixels."""
    text = " ".join(text.split())
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(text + "...", font=_font(size)) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: no file to ship, the same on every machine."""
    return ImageFont.load_default(size=size)

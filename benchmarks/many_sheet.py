"""One picture of benchmarks/many.py: prompts before, with the membranes joint, and with the same ones summed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from erasure_core.atomic import write_bytes
from erasure_core.evaluation import BenchResult
from erasure_core.evaluation.cache import to_image
from erasure_core.evaluation.groups import Case
from erasure_core.evaluation.tally import Pair

TILE, GAP, LEFT, MARGIN = 128, 12, 104, 24
HEAD, LINE, BLOCK = 96, 20, 28
INK, PALE = (28, 32, 40), (105, 113, 125)
GOOD, BAD = (24, 134, 72), (200, 40, 45)
ROWS = ("before", "joint", "summed")


@dataclass(frozen=True)
class Column:
    """One prompt: what is to be read after the erasure, and its pair of pictures with either kind of membranes."""

    case: Case
    wanted: Mapping[str, str]
    joint: Pair
    summed: Pair


def sheet(
    joint: Mapping[str, BenchResult], summed: Mapping[str, BenchResult], anchors: Mapping[str, str], path: Path
) -> None:
    """Write a JPEG: above prompts for each concept (name of a result), below what stays (the result "")."""
    blocks = [("erased", _erased(joint, summed, anchors)), ("not erased, to stay", _staying(joint[""], summed[""]))]
    widest = max(len(columns) for _, columns in blocks)
    size = (LEFT + widest * (TILE + GAP) + MARGIN, HEAD + len(blocks) * _height() + MARGIN)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    erased = ", ".join(f"{target} > {anchor}" for target, anchor in anchors.items())
    draw.text((MARGIN, 20), f"Seven concepts at once: {erased}", fill=INK, font=_font(24))
    note = "same prompt and seed in a column, the first seed of each · green frame: read as wanted, red: not"
    draw.text((MARGIN, 52), note, fill=PALE, font=_font(17))
    for i, (title, columns) in enumerate(blocks):
        _draw_block(image, draw, title, columns, HEAD + i * _height(), (joint, summed))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    write_bytes(path, stream.getvalue())


def _erased(
    joint: Mapping[str, BenchResult], summed: Mapping[str, BenchResult], anchors: Mapping[str, str]
) -> list[Column]:
    """For each concept its first two prompts (of a style one) that name no second concept, the first seed of each."""
    columns = []
    for target, anchor in anchors.items():
        result = joint[target]
        attribute = result.group("D").attribute
        found = [
            Column(one.case, {**one.case.expect, attribute: anchor}, one, two)
            for one, two in _firsts(result, summed[target], "D")
            if not any(label in anchors for name, label in one.case.expect.items() if name != attribute)
        ]
        columns += found[: 1 if attribute == "style" else 2]
    return columns


def _staying(joint: BenchResult, summed: BenchResult) -> list[Column]:
    """A few prompts of each group, spread evenly over it, the first seed of each."""
    columns = []
    for group, count in zip(joint.groups, (5, 4, 4), strict=True):
        every = [Column(one.case, one.case.expect, one, two) for one, two in _firsts(joint, summed, group.name)]
        columns += [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)]
    return columns


def _firsts(joint: BenchResult, summed: BenchResult, group: str) -> list[tuple[Pair, Pair]]:
    """The first seed of every prompt of a group in both results."""
    others = {(pair.case.prompt, pair.case.seed): pair for pair in summed.pairs[group]}
    firsts: dict[str, Pair] = {}
    for pair in joint.pairs[group]:
        firsts.setdefault(pair.case.prompt, pair)
    return [(pair, others[pair.case.prompt, pair.case.seed]) for pair in firsts.values()]


def _height() -> int:
    return BLOCK + 2 * LINE + len(ROWS) * (TILE + GAP)


def _draw_block(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    title: str,
    columns: Sequence[Column],
    top: int,
    results: tuple[Mapping[str, BenchResult], Mapping[str, BenchResult]],
) -> None:
    draw.text((MARGIN, top), title, fill=PALE, font=_font(18))
    start = top + BLOCK + 2 * LINE
    for row, name in enumerate(ROWS):
        draw.text((MARGIN, start + row * (TILE + GAP) + TILE // 2 - 10), name, fill=INK, font=_font(18))
    for i, column in enumerate(columns):
        left = LEFT + i * (TILE + GAP)
        for line, words in enumerate(_two_lines(column.case.prompt)):
            draw.text((left, top + BLOCK + line * LINE), words, fill=INK, font=_font(15))
        for row, (result, pair, side) in enumerate(
            ((results[0], column.joint, 0), (results[0], column.joint, 1), (results[1], column.summed, 1))
        ):
            owner = next(r for r in result.values() if _place(pair, side) in r.shots)
            place = (left, start + row * (TILE + GAP))
            picture = owner.pictures.load(owner.shots[_place(pair, side)])
            if picture is None:
                continue
            image.paste(to_image(picture).resize((TILE, TILE), Image.Resampling.LANCZOS), place)
            verdict = pair.after if side else pair.before
            wanted = column.wanted if side else column.case.expect
            good = verdict is not None and all(verdict.labels.get(name) == label for name, label in wanted.items())
            box = (place[0], place[1], place[0] + TILE - 1, place[1] + TILE - 1)
            draw.rectangle(box, outline=GOOD if good else BAD, width=3)


def _place(pair: Pair, side: int) -> tuple[str, str, int, int]:
    return pair.case.group, pair.case.prompt, pair.case.seed, side


def _two_lines(text: str) -> tuple[str, str]:
    """The prompt in two lines of nearly equal length."""
    words = text.split()
    cut = min(range(1, len(words) + 1), key=lambda k: abs(len(" ".join(words[:k])) - len(" ".join(words[k:]))))
    return " ".join(words[:cut]), " ".join(words[cut:])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)

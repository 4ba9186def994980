"""Draw pictures, with membranes or without. The same seed starts from the same noise, so pictures can be compared."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from .console import Progress, complain, say
from .shared import add_model, add_overwrite, check_free, load_model

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..membranes import Membrane
    from ..models import Model

NAME = "generate"
HELP = "draw pictures, with membranes or without"
EXAMPLES = """\
  python -m erasure_core generate --prompt "a red circle" --out before
  python -m erasure_core generate --prompt "a red circle" --prompt "a blue star" \\
      --membrane no-circle.safetensors --out after
  python -m erasure_core generate --prompt "a red circle" --membrane no-circle.safetensors:0.5 --out half
"""
GRID = "grid.png"
_GAP = 4  # pixels between the pictures of the grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--prompt", action="append", required=True, metavar="TEXT", help="what to draw; may be given again"
    )
    parser.add_argument("--negative", default="", metavar="TEXT", help="what to keep away from (default: nothing)")
    add_model(parser)
    parser.add_argument(
        "--membrane",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a membrane or LoRA file; 0 is off, 1 is full strength (default); may be given again",
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--count", type=int, default=1, help="pictures per prompt, each with the next seed (default 1)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default 20)")
    parser.add_argument("--cfg", type=float, default=5.0, help="guidance: how closely to follow the prompt (default 5)")
    parser.add_argument("--out", type=Path, default=Path("out/pictures"), metavar="DIR", help="default out/pictures")
    add_overwrite(parser)


def run(options: argparse.Namespace) -> int:
    """Draw, save each picture as soon as it is there, and a grid of all."""
    from ..membranes import apply

    _check(options)
    jobs = [(prompt, options.seed + i) for prompt in options.prompt for i in range(options.count)]
    paths = [options.out / _file_name(i, prompt, seed) for i, (prompt, seed) in enumerate(jobs, start=1)]
    for path in [*paths, options.out / GRID]:
        check_free(path, options.overwrite)
    model = load_model(options.model)
    membranes = [_membrane(text, model) for text in options.membrane]
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = []
    with apply(model, membranes) as applied, Progress("step") as progress:
        if membranes:
            complain(applied.receipt)
        for i, (prompt, seed) in enumerate(jobs):
            pictures.append(_draw(model, prompt, seed, options, _part(progress, i, len(jobs))))
            _save(pictures[-1], paths[i], _settings(prompt, seed, options))
    _save(_grid(pictures, options.count), options.out / GRID, "")
    say("\n".join(map(str, [*paths, options.out / GRID])))
    return 0


def _check(options: argparse.Namespace) -> None:
    for name, low, high in (("steps", 1, 1000), ("count", 1, 1000), ("seed", 0, 2**63 - 1001), ("cfg", 0, 100)):
        if not low <= getattr(options, name) <= high:  # also true for NaN
            raise BadInput(f"--{name} is {getattr(options, name)}; it must be from {low} to {high}.")


def _membrane(text: str, model: Model) -> Membrane:
    """``FILE`` or ``FILE:STRENGTH``; a colon that no number follows belongs to the name.

    Of whole weights the model itself is the base.
    """
    from ..formats import load_as
    from ..formats.absolute import Reading
    from ..formats.folder import open_header
    from ..formats.imported import is_whole
    from ..membranes import Membrane

    name, _, tail = text.rpartition(":")
    strength = _number(tail) if name else None
    header = open_header(Path(text if strength is None else name))
    erasure = load_as(header, model if is_whole(header) else None, None, Reading())
    return Membrane(erasure, strength=1.0 if strength is None else strength)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _draw(
    model: Model, prompt: str, seed: int, options: argparse.Namespace, callback: Callable[[int, int], None]
) -> Image:
    from ..evaluation.cache import to_image

    encoded, negative = model.encode([prompt]), model.encode([options.negative])
    latents = model.sample(encoded, negative, seed, options.steps, options.cfg, callback=callback)
    return to_image((model.decode(latents)[0] * 255).round().byte())


def _part(progress: Progress, index: int, count: int) -> Callable[[int, int], None]:
    """The steps of picture ``index`` of ``count`` as a part of the whole."""
    return lambda step, steps: progress(index * steps + step, count * steps, f"picture {index + 1} of {count}")


def _file_name(number: int, prompt: str, seed: int) -> str:
    words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return f"{number:02d}-{words or 'picture'}-{seed}.png"


def _settings(prompt: str, seed: int, options: argparse.Namespace) -> str:
    """The text that galleries read from a picture, in the layout they know."""
    used = "".join(f", Membrane: {Path(text).name}" for text in options.membrane)
    return (
        f"{prompt}\nNegative prompt: {options.negative}\n"
        f"Steps: {options.steps}, CFG scale: {options.cfg:g}, Seed: {seed}, Model: {Path(options.model).name}{used}"
    )


def _grid(pictures: Sequence[Image], columns: int) -> Image:
    """One row per prompt, one column per seed."""
    from PIL import Image

    width, height = pictures[0].size
    rows = len(pictures) // columns
    grid = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * (width + _GAP), i // columns * (height + _GAP)))
    return grid


def _save(picture: Image, path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    from ..atomic import atomic_write

    info = PngInfo()
    if text:
        info.add_itxt("parameters", text)
    atomic_write(path, lambda stream: picture.save(stream, "PNG", pnginfo=info))

"""Solve an erasure for a model and write it to a file. The model itself is not changed."""

from __future__ import annotations

import argparse
import inspect
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .console import say
from .shared import add_concepts, add_explain, add_file_form, add_model, check_free, dtype, load_model, read_concepts

NAME = "erase"
HELP = "make a membrane: the file that erases concepts"
EXAMPLES = """\
  python -m erasure_core erase --concepts "circle -> square" --out no-circle.safetensors
  python -m erasure_core erase --concepts "style: Van Gogh | vincent" --concepts "+ a portrait" \\
      --model ~/models/sd15 --out van-gogh.safetensors
  python -m erasure_core erase --preset nudity --model ~/models/sd15 --out decent.safetensors
  python -m erasure_core erase --preset person --concepts "Some One" --model ~/models/sd15 --out person.safetensors
  python -m erasure_core erase --concepts @concepts.txt --form lora --dtype fp16 --out concepts.safetensors

concepts, one per line:   target | alias | alias -> anchor @ weight   # comment
  a part in "double quotes" is literal; a line starting with + is a phrase that must stay; no anchor means neutral words

presets are data files to copy and edit: object, character, person, style, nudity, unsafe, watermark, or a path

the settings of a method, and why its defaults are what they are:
  python -m erasure_core erase --explain uce
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_concepts(parser)
    parser.add_argument("--preset", metavar="NAME|FILE", help="method, settings and phrases of a usual job")
    parser.add_argument("--kind", help="kind of the concepts that name none (default object, or the preset's)")
    add_model(parser)
    parser.add_argument("--method", help="how to solve it (default uce, or the preset's)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="setting of the method; may be given again"
    )
    add_explain(parser, "closed_form")
    parser.add_argument("--parity", action="store_true", help="the published defaults and quirks instead of ours")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    add_file_form(parser)


def run(options: argparse.Namespace) -> int:
    """Solve, save, and say what was made."""
    from ..calibration import fitted
    from ..closed_form import erase
    from ..concepts import parse_concepts
    from ..formats import save
    from ..membranes import Membrane, apply
    from ..options import parse_options
    from ..presets import Preset, load

    check_free(options.out, options.overwrite)
    text = read_concepts(options.concepts)
    preset = load(options.preset) if options.preset is not None else Preset("", "uce")
    method = options.method or preset.method
    chosen = replace(preset, kind=options.kind or preset.kind)
    concepts = chosen.concept_set(text) if options.preset is not None else parse_concepts(text, chosen.kind)
    settings: dict[str, Any] = parse_options(",".join(options.option))
    for name in settings.keys() & inspect.signature(erase).parameters.keys():
        raise BadInput(f"'{name}' is no setting of a method. Say it as --{name}, without --option.")
    if method == preset.method:
        settings = {**parse_options(preset.options), **settings}
    parity = options.parity or settings.pop("parity", "no") == "yes"
    model = load_model(options.model)
    begun = time.perf_counter()
    erasure = erase(model, concepts, method, options.preserve, parity, **settings)
    seconds = time.perf_counter() - begun
    weights = model.weights() if options.form == "lora" else None
    if options.form == "native":
        erasure = fitted(erasure, model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    path = save(erasure, options.out, form=options.form, weights=weights, dtype=dtype(options.dtype))
    with apply(model, Membrane(erasure)) as applied:
        say(f"{len(concepts)} concept{'s' * (len(concepts) > 1)} erased by {method} in {seconds:.2f} s")
        say(applied.receipt)
    say(f"{path} ({options.form}, {path.stat().st_size / 1000:.1f} kB)")
    return 0

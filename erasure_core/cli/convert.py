"""Write an erasure in another form or number format.

A native map becomes a LoRA by multiplying it with the model's weights, so that direction needs --model, and the LoRA
then belongs to that model and those sharing its weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import say
from .shared import add_file_form, add_model, check_free, dtype, load_model

NAME = "convert"
HELP = "write a file in another form: native or LoRA"
EXAMPLES = """\
  python -m erasure_core convert no-circle.safetensors no-circle-lora.safetensors --form lora --dtype fp16
  python -m erasure_core convert van-gogh.safetensors van-gogh-lora.safetensors --form lora --model ~/models/sd15
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="IN", help="the file to read, in any known format")
    parser.add_argument("target", type=Path, metavar="OUT", help="the .safetensors file to write")
    add_file_form(parser)
    add_model(parser, "needed for maps to LoRA only")


def run(options: argparse.Namespace) -> int:
    """Read, convert, write."""
    from ..formats import load, save

    check_free(options.target, options.overwrite)
    erasure = load(options.source)
    weights = load_model(options.model).weights() if options.form == "lora" and erasure.maps else None
    options.target.parent.mkdir(parents=True, exist_ok=True)
    path = save(erasure, options.target, form=options.form, weights=weights, dtype=dtype(options.dtype))
    say(f"{path} ({options.form}, {options.dtype}, {path.stat().st_size / 1000:.1f} kB)")
    return 0

"""Write an erasure in another form, number format or rank.

A native map becomes a LoRA by multiplying it with the model's weights, so that direction needs --model, and the LoRA
then belongs to that model and those sharing its weights. Files of whole weights (ESD, UCE, MACE, AdvUnlearn, ...) are
read with --base, the model they were made from. --rank keeps the strongest terms and says what was lost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import say
from .shared import add_base, add_file_form, add_model, check_free, dtype, load_model, read_file

NAME = "convert"
HELP = "write a file in another form: native or LoRA"
EXAMPLES = """\
  python -m erasure_core convert no-circle.safetensors no-circle-lora.safetensors --form lora --dtype fp16
  python -m erasure_core convert van-gogh.safetensors van-gogh-lora.safetensors --form lora --model ~/models/sd15
  python -m erasure_core convert uce-van-gogh.pt van-gogh.safetensors --base ~/models/sd14
  python -m erasure_core convert no-circle.safetensors small.safetensors --rank 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="IN", help="the file to read, in any known format")
    parser.add_argument("target", type=Path, metavar="OUT", help="the .safetensors file to write")
    add_file_form(parser)
    add_model(parser, "needed for maps to LoRA and for --rank; by default the base if there is one")
    parser.add_argument("--rank", type=int, metavar="N", help="keep N terms at most of each map and each delta")
    add_base(parser)


def run(options: argparse.Namespace) -> int:
    """Read, convert, write."""
    from ..compression import compress_to
    from ..formats import erasure_report, save
    from ..formats.folder import open_header
    from ..formats.imported import is_whole

    check_free(options.target, options.overwrite)
    base = load_model(options.base) if options.base else None
    whole = is_whole(open_header(options.source))
    erasure = read_file(options.source, base, options, options.rank if whole else None)
    weights = None
    smaller = options.rank is not None and not whole
    if erasure.maps and (options.form == "lora" or smaller):
        weights = (base or load_model(options.model)).weights()
    if smaller:
        erasure = compress_to(erasure, options.rank, weights or {})
    options.target.parent.mkdir(parents=True, exist_ok=True)
    path = save(erasure, options.target, form=options.form, weights=weights, dtype=dtype(options.dtype))
    if base or options.rank is not None:
        say(erasure_report(erasure))
    say(f"{path} ({options.form}, {options.dtype}, {path.stat().st_size / 1000:.1f} kB)")
    return 0

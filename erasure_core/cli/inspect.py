"""Say what a file is: format, model family, concepts, layers, ranks, settings. Nothing is loaded into a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import say
from .shared import add_base, load_model

NAME = "inspect"
HELP = "say what a membrane or LoRA file holds"
EXAMPLES = """\
  python -m erasure_core inspect no-circle.safetensors
  python -m erasure_core inspect uce-van-gogh.safetensors --base ~/models/sd14
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a .safetensors, .pt, .bin or .ckpt file, or the folder of a pipeline",
    )
    add_base(parser)


def run(options: argparse.Namespace) -> int:
    """Describe each file."""
    from ..formats import describe

    base = load_model(options.base) if options.base else None
    for i, path in enumerate(options.files):
        if i:
            say()
        say(describe(path, base, options.force, concept=options.concept))
    return 0

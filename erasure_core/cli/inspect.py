"""Say what a file is: format, model family, concepts, layers, ranks, settings. Nothing is loaded into a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import say

NAME = "inspect"
HELP = "say what a membrane or LoRA file holds"
EXAMPLES = """\
  python -m erasure_core inspect no-circle.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .safetensors file")


def run(options: argparse.Namespace) -> int:
    """Describe each file."""
    from ..formats import describe

    for i, path in enumerate(options.files):
        if i:
            say()
        say(describe(path))
    return 0

"""Erase a concept from the bundled model, draw before and after, measure what happened and write the membrane."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import Progress, say

NAME = "demo"
HELP = "erase a concept from the bundled model: pictures, a table and the files"
EXAMPLES = """\
  python -m erasure_core demo
  python -m erasure_core demo --concept star --anchor heart
  python -m erasure_core demo --concept moon --anchor "" --out moon      (no anchor: to neutral words)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--concept", default="circle", metavar="WORDS", help="what to erase (default circle)")
    parser.add_argument("--anchor", default="square", metavar="WORDS", help="what to draw instead (default square)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="folder for the results (default out/demo)"
    )


def run(options: argparse.Namespace) -> int:
    """Show it."""
    from ..demo import showcase

    with Progress("picture") as progress:
        table = showcase.run(options.concept, options.anchor, options.out, progress)
    say(table)
    return 0

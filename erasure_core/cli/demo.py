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
    parser.add_argument(
        "--anchor", metavar="WORDS", help="what to draw instead (default: another word of the sort, square for circle)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="folder for the results (default out/demo)"
    )


def run(options: argparse.Namespace) -> int:
    """Show it."""
    from ..showcase import run as show

    anchor = _another(options.concept) if options.anchor is None else options.anchor
    with Progress("picture") as progress:
        table = show(options.concept, anchor, options.out, progress)
    say(table)
    return 0


def _another(concept: str) -> str:
    """A shape for a shape, a colour for a colour; raises BadInput for a word the bundled model does not know."""
    from ..demo.world import ATTRIBUTES
    from ..evaluation.demo_prompts import attribute_of

    word = concept.strip().lower()
    return next(other for other in ATTRIBUTES[attribute_of(word)] if other != word)

"""Guidance terms on the command line: each --guidance, and the texts and settings written after it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .console import say
from .shared import read_concepts

if TYPE_CHECKING:
    from ..guidance import GuidanceTerm


@dataclass
class _Asked:
    method: str
    concepts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


class _Method(argparse.Action):
    """Begins a term."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """``values`` is the method's name."""
        namespace.guidance = [*namespace.guidance, _Asked(values.replace("-", "_"))]


class _Detail(argparse.Action):
    """Belongs to the last term begun."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """``values`` is the text."""
        if not namespace.guidance:
            parser.error(f"{option} belongs after a --guidance METHOD")
        getattr(namespace.guidance[-1], self.const).append(values)


class _Explain(argparse.Action):
    """Prints what there is to know about a guidance method, and ends."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """``values`` is the method's name."""
        from ..guidance import explain

        try:
            say(explain(values.replace("-", "_")))
        except BadInput as error:
            parser.error(str(error))
        parser.exit()


def add_guidance(parser: argparse.ArgumentParser) -> None:
    """``--guidance``, its texts and settings, and ``--explain-guidance``."""
    parser.add_argument(
        "--guidance",
        action=_Method,
        default=[],
        metavar="METHOD",
        help="push pictures away from concepts while they are drawn: negative, negation, sld, sega, perp-neg, dng or "
        "all-but-one; may be given again",
    )
    parser.add_argument(
        "--guidance-concepts",
        action=_Detail,
        const="concepts",
        metavar="TEXT|@FILE",
        help="what the --guidance before it pushes away, in the syntax of 'erase'; may be given again",
    )
    parser.add_argument(
        "--guidance-options",
        action=_Detail,
        const="options",
        metavar="NAME=VALUE,...",
        help="settings of the --guidance before it, as in preset=strong,floor=0.1",
    )
    parser.add_argument(
        "--explain-guidance", action=_Explain, metavar="METHOD", help="what a guidance method does, its settings; ends"
    )


def read_guidance(asked: Sequence[_Asked]) -> list[GuidanceTerm]:
    """The terms. Raises BadInput for a term without concepts, or one that cannot be made."""
    from ..guidance import make_with

    made = []
    for one in asked:
        if not one.concepts:
            raise BadInput(f"--guidance {one.method} needs to know what to push away: add --guidance-concepts TEXT.")
        made.append(make_with(one.method, read_concepts(one.concepts), ",".join(one.options)))
    return made


def describe_guidance(asked: Sequence[_Asked]) -> str:
    """The terms as one line of a picture's record."""
    return "; ".join(
        f"{one.method} ({', '.join(' '.join(text.split()) for text in one.concepts)})"
        + (f" {','.join(one.options)}" if one.options else "")
        for one in asked
    )

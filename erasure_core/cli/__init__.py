"""The command line: one file per command, each with NAME, HELP, EXAMPLES, ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType

from ..errors import Interrupted, MembraneError
from . import convert, demo, erase, generate, inspect, train
from .console import complain

COMMANDS: tuple[ModuleType, ...] = (demo, erase, train, generate, inspect, convert)
OK, FAILED, STOPPED = 0, 1, 130

_DESCRIPTION = "Make a text-to-image model stop drawing chosen concepts, and see that it worked."
_EPILOG = """\
A first tour, on the small model that comes with the package (nothing is downloaded):
  python -m erasure_core demo
  python -m erasure_core erase --concepts "circle -> square" --out no-circle.safetensors
  python -m erasure_core generate --prompt "a red circle" --membrane no-circle.safetensors --out pictures
  python -m erasure_core inspect no-circle.safetensors

'python -m erasure_core COMMAND --help' explains a command. Exit codes: 0 done, 1 something is wrong with the input
(one line says what), 2 wrong use of the command line, 130 stopped with Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with ``argv`` (default: the process's own) and return its exit code.

    Wrong usage leaves through argparse with SystemExit(2). A user's mistake is one line on stderr; ``--debug`` lets
    the exception through instead.
    """
    options = build_parser().parse_args(argv)
    try:
        result: int = options.run(options)
    except (KeyboardInterrupt, Interrupted):
        complain("stopped")
        return STOPPED
    except (MembraneError, OSError) as error:
        if options.debug:
            raise
        complain(f"error: {_sentence(error)}")
        return FAILED
    return result


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m erasure_core",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.__doc__,
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show the full traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def _sentence(error: Exception) -> str:
    """The error on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split())

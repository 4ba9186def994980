"""Arguments that several commands have, read and checked the same way everywhere."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, CannotWrite
from .console import Progress, say

if TYPE_CHECKING:
    import torch

    from ..erasure import Erasure
    from ..models import Model

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
NEEDED = {"diffusers": "diffusers", "transformers": "transformers"}


def add_concepts(parser: argparse.ArgumentParser) -> None:
    """``--concepts`` and ``--preserve``."""
    parser.add_argument(
        "--concepts",
        action="append",
        default=[],
        metavar="TEXT|@FILE",
        help="what to erase, or a file with it after an @ (@- reads a pipe); may be given again",
    )
    parser.add_argument(
        "--preserve", action="append", default=[], metavar="PHRASE", help="must stay; may be given again"
    )


def add_explain(parser: argparse.ArgumentParser, package: str) -> None:
    """``--explain``: print what ``explain`` of a package of methods says of one, and end."""

    class Explain(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
        ) -> None:
            try:
                say(import_module(f"..{package}", __package__).explain(values))
            except BadInput as error:
                parser.error(str(error))
            parser.exit()

    parser.add_argument("--explain", action=Explain, metavar="METHOD", help="say all about a method and its settings")


def add_model(parser: argparse.ArgumentParser, help: str = "the model") -> None:
    """``--model``."""
    parser.add_argument(
        "--model",
        default="demo",
        metavar="demo|DIR",
        help=f"{help}: 'demo' is the bundled one (default), or a folder in diffusers layout (with model_index.json)",
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    """``--base``, ``--force`` and ``--concept``."""
    parser.add_argument(
        "--base",
        metavar="demo|DIR",
        help="the model that a file of whole weights was made from (ESD, UCE, MACE, AdvUnlearn, ...), as for --model",
    )
    parser.add_argument("--force", action="store_true", help="read it even if it seems to be made from another base")
    parser.add_argument(
        "--concept",
        default="",
        metavar="TEXT",
        help="what it erases, where the file does not say: 'Mickey Mouse | mickey'",
    )


def add_file_form(parser: argparse.ArgumentParser) -> None:
    """``--form``, ``--dtype`` and ``--overwrite``."""
    parser.add_argument(
        "--form",
        choices=("native", "lora"),
        default="native",
        help="native: a few kilobytes, can be solved again (default); lora: works in every program that loads LoRA",
    )
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="fp32", help="number format in the file (default fp32)"
    )
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """``--overwrite``."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that exist; without it that is an error"
    )


def load_model(where: str) -> Model:
    """The model named by ``--model``. Raises BadInput, saying what is missing."""
    from .. import models

    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise BadInput(
            f"This needs {' and '.join(lacking)}, which this Python lacks. "
            f'Install it: "{sys.executable}" -m pip install {" ".join(lacking)}'
        )
    if where == "demo":
        return models.load_demo()
    from ..backends.folder import load_folder

    return models.from_pipeline(load_folder(Path(where)))


def read_file(path: Path, base: Model | None, options: argparse.Namespace, rank: int | None = None) -> Erasure:
    """The erasure in a file of any format, with a bar while whole weights are compared with ``base``."""
    from ..formats import load_as
    from ..formats.absolute import Reading
    from ..formats.folder import open_header

    with Progress("tensor") as progress:
        return load_as(open_header(path), base, options.concept, Reading(rank, force=options.force, progress=progress))


def read_concepts(texts: list[str]) -> str:
    """Concept text from the command line; ``@FILE`` is a file in the same syntax, ``@-`` what comes through a pipe."""
    return "\n".join(_text(text) for text in texts)


def _text(text: str) -> str:
    if not text.startswith("@"):
        return text
    if text == "@-":
        return sys.stdin.read()
    path = Path(text[1:])
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a text file in UTF-8. Save it as UTF-8 text and try again.") from error
    except OSError as error:
        raise BadInput(
            f"The concepts in {path} cannot be read: {error.strerror}. Check the name after the @."
        ) from error


def dtype(name: str) -> torch.dtype:
    """The torch type of a ``--dtype`` word."""
    import torch

    found: torch.dtype = getattr(torch, DTYPES[name])
    return found


def check_free(path: Path, overwrite: bool) -> None:
    """Raise CannotWrite before any work if ``path`` exists and may not be replaced, or is a folder."""
    if path.is_dir():
        raise CannotWrite(f"{path} is a folder. Give a file name, such as {path / 'membrane.safetensors'}.")
    if path.exists() and not overwrite:
        raise CannotWrite(f"{path} exists. Choose another name, or add --overwrite to replace it.")

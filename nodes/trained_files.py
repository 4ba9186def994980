"""Where a training is kept while it is unfinished, and where its result goes."""

from __future__ import annotations

from pathlib import Path

from ..erasure_core.erasure import Erasure
from ..erasure_core.errors import CannotWrite, MembraneError
from ..erasure_core.formats import load, save
from . import host
from .files import place_in

ENDING = ".training"  # of unfinished ones, which no loader lists


def state_of_training(name: str, configuration: str) -> Path:
    """The file of the training with this ``configuration``: the one it was begun in, whatever that was called."""
    if not name.strip() or name.rstrip().endswith(("/", "\\")):
        raise CannotWrite("The name of the file is empty. Write one, such as no-circle.")
    folder = host.folder_for(host.FOLDERS[0])
    ending = f"-{configuration}{ENDING}"
    path = place_in(name.strip(), folder)
    begun = sorted(folder.rglob(f"*{ending}"))
    return begun[0] if begun else path.with_name(path.stem + ending)


def write_trained(erasure: Erasure, name: str) -> str:
    """Write the result; returns the name as it is listed.

    An earlier state of the same training is replaced; beside any other file it is saved with a number.
    """
    folder = host.folder_for(host.FOLDERS[0])
    path = place_in(name.strip(), folder)
    number, candidate = 2, path
    while candidate.exists() and not _is_earlier(candidate, erasure):
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    save(erasure, candidate)
    return candidate.relative_to(folder).as_posix()


def _is_earlier(path: Path, erasure: Erasure) -> bool:
    try:
        found = load(path).recipe.get("configuration")
    except MembraneError:
        return False
    return found is not None and found == erasure.recipe.get("configuration")

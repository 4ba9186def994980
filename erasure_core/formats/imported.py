"""Whole weights read once: what they change is kept as a small native file, found again by content and base."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import write_bytes
from ..erasure import Erasure
from ..errors import CannotWrite, UnknownFormat
from . import dump, load_as
from .absolute import Progress, Reading
from .concept import named
from .detect import kind_of
from .files import Header
from .folder import open_header

FOLDER = "imported"
"""Folder inside that of the membranes where such files are kept."""

_RULES = "1"  # of how a change is made small: another number when they change, so that files are imported anew


@dataclass(frozen=True)
class Imported:
    """The ``erasure``, the small file it is kept in (None if it could not be written, then ``trouble`` says why), and
    whether it was read from there."""

    erasure: Erasure
    path: Path | None
    again: bool
    trouble: str = ""


def is_whole(header: Header) -> bool:
    """Whether reading the file means comparing it with a base, which takes long for a large one."""
    return kind_of(header).reader in ("weights", "wrapper")


def import_once(
    header: Header,
    base: Any,
    folder: Path,
    file_digest: str,
    base_digest: str,
    concept: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """What a file of whole weights changes in ``base``, in low-rank form; the second time from a file in ``folder``.

    Kept by ``file_digest``, of all that is in the file, ``base_digest``, of the base, and the rules of making it small.
    The deltas have bounded ranks (:func:`.compact.rank_for`) and what they leave out stands in
    ``diagnostics["imported"]``. A kept file that is damaged is made anew. Raises what ``load`` does.
    """
    key = hashlib.sha256(f"{file_digest} {base_digest} {_RULES}".encode()).hexdigest()[:16]
    stem = header.path.stem if not header.path.is_dir() else header.path.name
    target = folder / f"{stem[:80]}-{key}.safetensors"
    if target.is_file():
        try:
            kept = load_as(open_header(target), None, concept, Reading())
            return Imported(kept, target, True)
        except UnknownFormat:
            pass  # of a disk that was full, say: written again below
    whole = load_as(header, base, None, Reading(small=True, progress=progress))
    erasure = replace(whole, base={**whole.base, "fingerprint": base_digest, "imported_from": file_digest})
    try:
        write_bytes(target, dump(erasure))
    except CannotWrite as error:
        return Imported(named(erasure, concept), None, False, str(error))
    return Imported(named(erasure, concept), target, False)

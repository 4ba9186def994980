"""Hashes of large files, remembered: a file of the same name, size and time of change is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from ..atomic import write_bytes
from ..errors import CannotWrite

_SMALL = 1 << 24  # bytes that are hashed faster than it is worth remembering
_KEPT = 1000  # entries; the oldest go first
_BLOCK = 1 << 22


def digest_of(path: Path, memory: Path | None = None, tick: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file as hex digits. ``memory``: the JSON file that remembers those of large ones.

    ``tick`` is called once for every few megabytes and may raise. A memory that cannot be read or written only costs
    time.
    """
    facts = path.stat()
    key = f"{path.name} {facts.st_size} {facts.st_mtime_ns} {facts.st_ino}"
    known = _read(memory) if memory is not None and facts.st_size >= _SMALL else {}
    if key in known:
        return known[key]
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            tick()
            digest.update(block)
    if memory is not None and facts.st_size >= _SMALL:
        kept = dict([*known.items(), (key, digest.hexdigest())][-_KEPT:])
        with contextlib.suppress(CannotWrite):
            write_bytes(memory, json.dumps(kept, indent=0).encode())
    return digest.hexdigest()


def _read(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

"""Writing files so that they are either the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CannotWrite

_STALE = 3600.0  # seconds after which a temporary file of a killed process is taken away


def write_bytes(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` as :func:`atomic_write` does, making its folder first. Raises :class:`CannotWrite`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(_unwritable(path, error)) from error
    return atomic_write(path, lambda stream: stream.write(data))


def atomic_write(path: str | os.PathLike[str], writer: Callable[[BinaryIO], Any]) -> Path:
    """Let ``writer`` fill a temporary file beside ``path``, then put it in place in one step.

    After any failure, an interruption included, ``path`` is what it was and no temporary file is left; a process
    killed outright leaves at most a hidden ``.part`` file, which a later save of the same name takes away. Raises
    :class:`CannotWrite`. Returns the path.
    """
    asked = Path(path)
    target = Path(os.path.realpath(asked))  # a link stays a link, its target is replaced
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    done = False
    try:
        if target.is_dir():
            raise CannotWrite(f"{asked.name} is a folder. Give the name of a file in it.")
        _sweep(target)
        with temporary.open("xb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
        done = True
    except OSError as error:
        raise CannotWrite(_unwritable(asked, error)) from error
    finally:
        if not done:
            with contextlib.suppress(OSError):
                temporary.unlink()
    _sync_folder(target.parent)
    return asked


def _sweep(target: Path) -> None:
    """Take away what a killed process left of an earlier save of the same file."""
    prefix, now = f".{target.name[:40]}.", time.time()
    with contextlib.suppress(OSError):
        for entry in target.parent.iterdir():
            stale = entry.name.startswith(prefix) and entry.suffix == ".part"
            if stale and now - entry.stat().st_mtime > _STALE:
                entry.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full. Free some space",
        getattr(errno, "EDQUOT", -1): "your disk quota is used up. Free some space",
        errno.EACCES: "there is no permission to write there. Choose another folder",
        errno.EPERM: "there is no permission to write there. Choose another folder",
        errno.EROFS: "the disk is read-only. Choose another folder",
        errno.ENOENT: f"the folder '{path.parent.name}' does not exist. Make it first",
        errno.ENOTDIR: f"'{path.parent.name}' is not a folder. Choose another place",
        errno.ENAMETOOLONG: "the name is too long. Choose a shorter one",
    }
    reason = reasons.get(error.errno or 0, f"{error.strerror or error}. Check the disk and the path")
    return f"{path.name} was not saved: {reason} and save again. What was there before is untouched."

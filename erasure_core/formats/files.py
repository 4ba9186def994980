"""Files on disk: safetensors read with every kind of damage named, and writing that is all or nothing.

Messages name a file by its last part only: they are shown in pictures' metadata and shared in bug reports.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CannotWrite, UnknownFormat

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself
_STALE = 3600.0  # seconds after which a temporary file of a killed process is taken away
_PICKLES = (b"\x80", b"PK\x03\x04")  # bare pickle, and the zip that torch.save writes


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: ``shapes``, ``dtypes`` by key, text ``metadata``, ``size`` in bytes."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    size: int

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.name


def read_header(path: str | os.PathLike[str]) -> Header:
    """Names, shapes and metadata of a safetensors file, with no tensor read.

    Raises :class:`UnknownFormat` for anything that is not a whole safetensors file, saying what it is instead.
    """
    path = Path(path)
    try:
        _refuse_non_files(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = _header_bytes(stream, path.name, size)
    except OSError as error:
        raise UnknownFormat(_unreadable(path.name, error)) from error
    try:
        entries = json.loads(raw)
        metadata = entries.pop("__metadata__", None) or {}
        shapes = {key: tuple(entry["shape"]) for key, entry in entries.items()}
        dtypes = {key: str(entry["dtype"]) for key, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise UnknownFormat(_not_safetensors(path.name)) from error
    if 8 + len(raw) + end > size:
        raise UnknownFormat(_truncated(path.name))
    return Header(path, shapes, dtypes, {str(k): str(v) for k, v in metadata.items()}, size)


def read_tensors(header: Header) -> dict[str, Tensor]:
    """All tensors of the file as independent copies; refuses NaN and infinite numbers."""
    try:
        with safe_open(header.path, framework="pt") as stream:
            tensors = {key: stream.get_tensor(key).clone() for key in stream.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UnknownFormat(
            f"{header.name} is a damaged safetensors file ({_short(error)}). Download or save it again."
        ) from error
    broken = [key for key, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        raise UnknownFormat(
            f"{header.name} holds NaN or infinite numbers in {len(broken)} of {len(tensors)} tensors "
            f"(first: {broken[0]}). Its training or conversion went wrong; use another copy."
        )
    return tensors


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # 8-bit floats have no test of their own
    return bool(torch.isfinite(tensor).all())


def _refuse_non_files(path: Path) -> None:
    if path.is_dir():
        if (path / "model_index.json").is_file() or (path / "unet" / "config.json").is_file():
            raise UnknownFormat(
                f"{path.name} is the folder of a whole pipeline, an already changed model (MACE, SDD and TRCE publish "
                "these). Load it as a checkpoint in your host; Membrane reads files of single erasures."
            )
        raise UnknownFormat(f"{path.name} is a folder. Choose the .safetensors file inside it.")
    if not path.exists():
        raise UnknownFormat(f"{path.name} does not exist. Check the spelling and the folder.")


def _header_bytes(stream: BinaryIO, name: str, size: int) -> bytes:
    if size == 0:
        raise UnknownFormat(f"{name} is empty (0 bytes). The download or save did not finish; get it again.")
    start, probe = stream.read(8), stream.read(1)
    if probe != b"{" and start.startswith(_PICKLES):  # a header of 128 bytes begins like a pickle, too
        raise UnknownFormat(
            f"{name} is a PyTorch pickle (.pt, .ckpt, .bin), which could run any program on loading, so Membrane never "
            "opens one. Re-save it as .safetensors with a tool you trust."
        )
    if probe != b"{":
        raise UnknownFormat(_not_safetensors(name))
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        raise UnknownFormat(
            f"{name} claims a header of {length} bytes; more than {MAX_HEADER} is not allowed. "
            "The file is damaged or made to do harm."
        )
    if 8 + length > size:
        raise UnknownFormat(_truncated(name))
    return probe + stream.read(length - 1)


def _not_safetensors(name: str) -> str:
    return f"{name} is not a safetensors file, or its beginning is damaged. Membrane reads .safetensors only."


def _truncated(name: str) -> str:
    return f"{name} is cut off: it ends before its tensors do. The download or copy did not finish; get it again."


def _unreadable(name: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{name} may not be read by this user. Change the file's permissions or copy it elsewhere."
    return f"{name} cannot be read: {error.strerror or _short(error)}. Check the disk and the path."


def _short(error: BaseException) -> str:
    """First line of a message, no longer than a sentence, without paths."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return line.split(": /")[0][:120]


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
    reason = reasons.get(error.errno or 0, f"{error.strerror or _short(error)}. Check the disk and the path")
    return f"{path.name} was not saved: {reason} and save again. What was there before is untouched."

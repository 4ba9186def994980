"""Reading safetensors files and archives of ``torch.save``, with every kind of damage named.

Messages name a file by its last part only: they are shown in pictures' metadata and shared in bug reports.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UnknownFormat
from .archive import read_archive

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself
_PICKLE, _ARCHIVE = b"\x80", b"PK\x03\x04"  # bare pickle, and the zip that torch.save writes


@dataclass(frozen=True)
class Header:
    """What a file says of itself: ``shapes``, ``dtypes`` by key, text ``metadata``, ``size`` in bytes.

    ``mapped``: the tensors of an archive of ``torch.save`` or of a folder, still on disk; None for safetensors.
    ``folder``: whether it is several files, one for each part of a pipeline.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    size: int
    mapped: Mapping[str, Tensor] | None = field(default=None, repr=False)
    folder: bool = False

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.name


def read_header(path: str | os.PathLike[str]) -> Header:
    """Names, shapes and metadata of a safetensors file or an archive of ``torch.save``, with no tensor read.

    Raises :class:`UnknownFormat` for anything else and for what is not whole, saying what it is instead.
    """
    path = Path(path)
    try:
        _refuse_non_files(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = _header_bytes(stream, path.name, size)
        if raw is None:
            return _archive_header(path, size)
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


def _archive_header(path: Path, size: int) -> Header:
    tensors = read_archive(path)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return Header(path, shapes, {key: str(tensor.dtype) for key, tensor in tensors.items()}, {}, size, tensors)


def read_tensors(header: Header, keys: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors ``keys`` of the file (default: all) as independent copies; refuses NaN and infinite numbers.

    Nothing else of the file is read.
    """
    keys = header.shapes.keys() if keys is None else keys
    try:
        if header.mapped is not None:
            tensors = {key: header.mapped[key].clone() for key in keys}
        else:
            with safe_open(header.path, framework="pt") as stream:
                tensors = {key: stream.get_tensor(key).clone() for key in keys}
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
    if torch.isfinite(tensor.sum(dtype=torch.float32)):
        return True  # six times as fast, and no broken number can hide in a sound sum; a large sum proves nothing
    return bool(torch.isfinite(tensor).all())


def _refuse_non_files(path: Path) -> None:
    if path.is_dir():
        raise UnknownFormat(f"{path.name} is a folder. Choose the .safetensors file inside it.")
    if not path.exists():
        raise UnknownFormat(f"{path.name} does not exist. Check the spelling and the folder.")


def _header_bytes(stream: BinaryIO, name: str, size: int) -> bytes | None:
    """The JSON header of a safetensors file; None for an archive of ``torch.save``."""
    if size == 0:
        raise UnknownFormat(f"{name} is empty (0 bytes). The download or save did not finish; get it again.")
    start, probe = stream.read(8), stream.read(1)
    if probe != b"{" and start.startswith(_ARCHIVE):
        return None
    if probe != b"{" and start.startswith(_PICKLE):  # a header of 128 bytes begins like a pickle, too
        raise UnknownFormat(
            f"{name} is a PyTorch pickle of the old kind (.pt, .ckpt, .bin), which could run any program on loading, "
            "so Membrane never opens one. Re-save it as .safetensors with a tool you trust."
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
    return (
        f"{name} is not a safetensors file, or its beginning is damaged. Membrane reads .safetensors, and .pt files "
        "of nothing but tensors."
    )


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

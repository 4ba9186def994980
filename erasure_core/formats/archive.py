"""Tensors of the zip archives that ``torch.save`` writes (``.pt``, ``.bin``, ``.ckpt``), without running them.

Such a file is a small program that builds its tensors. It is read in two steps: first its instructions are only looked
at, and the file is refused if they name anything but what a set of tensors needs; then ``torch.load`` runs them with
``weights_only=True``, which knows no others either. Tensors stay on disk (memory map) until they are copied.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UnknownFormat

_MAX_PROGRAM = 64_000_000  # bytes of instructions; a U-Net of SDXL needs a quarter of a million
_DEPTH = 4  # tables within tables: {"state_dict": {"unet": {module: {"weight": ...}}}}
_NEEDED = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char")),
    *("torch ByteStorage", "torch BoolStorage"),
}
_WRAPPER = "state_dict."
_ADVICE = "Re-save its tensors as .safetensors with a tool you trust."


def read_archive(path: Path) -> dict[str, Tensor]:
    """Tensors by dotted name, tables within tables flattened and other values left out; on disk until copied.

    Raises :class:`UnknownFormat` for a damaged archive and for one that is more than a set of tensors.
    """
    _inspect(path)
    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
    ) as error:
        raise UnknownFormat(
            f"{path.name} is a damaged PyTorch file: its tensors cannot be rebuilt. Download or save it again."
        ) from error
    tensors = dict(_flat(content)) if isinstance(content, Mapping) else {}
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            raise UnknownFormat(f"{path.name} is damaged: {name} is larger than the whole file. {_ADVICE}")
    return tensors


def _inspect(path: Path) -> None:
    """Look at the archive and its instructions without following them."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            programs = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if any(name.endswith("constants.pkl") for name in names):
                raise UnknownFormat(f"{path.name} is a compiled program (TorchScript), not a set of tensors. {_ADVICE}")
            if len(programs) != 1 or len(set(names)) != len(names) or not plain:
                raise UnknownFormat(f"{path.name} is a zip file, but not one that torch.save writes. {_ADVICE}")
            if programs[0].file_size > _MAX_PROGRAM:
                raise UnknownFormat(f"{path.name} has too many instructions for a set of tensors. {_ADVICE}")
            program = archive.read(programs[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UnknownFormat(
            f"{path.name} is cut off or damaged: it begins like a PyTorch file, but its list of contents is missing or "
            "wrong. The download or copy did not finish; get it again."
        ) from error
    try:
        strange = sorted(set(_wanted(program)) - _NEEDED)
    except ValueError as error:
        raise UnknownFormat(
            f"{path.name} is a damaged PyTorch file: its instructions cannot be read. Download or save it again."
        ) from error
    if strange:
        raise UnknownFormat(
            f"{path.name} is a pickle that asks for more than tensors ({strange[0].replace(' ', '.')}): it could run "
            f"any program on loading, so Membrane does not open it. {_ADVICE}"
        )


def _wanted(program: bytes) -> Iterator[str]:
    """What the instructions would import, as ``module name``."""
    for code, argument, _ in pickletools.genops(program):
        if code.name == "GLOBAL":
            yield str(argument)
        elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield f"{code.name} (hidden)"  # never written by torch.save


def _flat(table: Mapping[Any, Any], prefix: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Tensor]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name.removeprefix(_WRAPPER), value.detach()
        elif isinstance(value, Mapping) and depth > 1:
            yield from _flat(value, f"{name}.", depth - 1)

"""Folders as diffusers writes them: the U-Net and the text encoders inside, as if they were one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..errors import UnknownFormat
from .files import Header, read_header, read_tensors

_PARTS = {
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_ENDINGS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
_OLD_NAME = "pytorch_model"  # of text encoders as .bin


def open_header(path: str | os.PathLike[str]) -> Header:
    """:func:`read_header` of a file, and of the folder of a pipeline, of a U-Net or of a text encoder."""
    place = Path(path)
    if not place.is_dir():
        return read_header(place)
    whole = (place / "model_index.json").is_file() or (place / "unet" / "config.json").is_file()
    parts = {root: _files(place / root, root) for root in _PARTS} if whole else {"": _only(place)}
    headers = [(root, read_header(file)) for root, files in parts.items() for file in files]
    if not headers:
        raise UnknownFormat(
            f"{place.name} is the folder of a whole pipeline, but there are no weights in its folder unet that "
            "Membrane reads. Get the folder again, with its .safetensors files."
            if whole
            else f"{place.name} is a folder. Choose the .safetensors file inside it."
        )
    return _joined(place, headers)


def _files(folder: Path, root: str) -> list[Path]:
    """The weights of one part: one file, the full precision first, or all the pieces of a large one."""
    for stem in (_PARTS[root], _OLD_NAME):
        for ending in _ENDINGS:
            name, _, last = f"{stem}{ending}".rpartition(".")
            if (folder / f"{name}.{last}").is_file():
                return [folder / f"{name}.{last}"]
            if pieces := sorted(folder.glob(f"{name}-*-of-*.{last}")):
                return pieces
    return []


def _only(folder: Path) -> list[Path]:
    """The weights of a folder that is a single part."""
    return next((files for root in ("unet", "text_encoder") if (files := _files(folder, root))), [])


def _joined(place: Path, headers: list[tuple[str, Header]]) -> Header:
    prefixed = [(f"{root}." if root else "", header) for root, header in headers]
    if len(prefixed) == 1 and not prefixed[0][0]:
        return prefixed[0][1]
    return Header(
        place,
        {prefix + key: shape for prefix, header in prefixed for key, shape in header.shapes.items()},
        {prefix + key: dtype for prefix, header in prefixed for key, dtype in header.dtypes.items()},
        {},
        sum(header.size for _, header in prefixed),
        _Tensors(prefixed),
        folder=True,
    )


class _Tensors(Mapping[str, Tensor]):
    """Tensors of several files by prefixed key, read when asked for."""

    def __init__(self, headers: list[tuple[str, Header]]) -> None:
        self._owners = {prefix + key: (header, key) for prefix, header in headers for key in header.shapes}

    def __getitem__(self, name: str) -> Tensor:
        header, key = self._owners[name]
        return read_tensors(header, [key])[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

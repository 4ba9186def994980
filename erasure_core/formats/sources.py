"""Pairs of a new weight and the one it replaces, by canonical name, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..erasure import cross_attention_names
from ..errors import BadInput
from ..keys import Family
from .files import Header, read_tensors
from .whole import Whole, by_name, slice_of

Pair = tuple[Tensor, Tensor]


class Source(Protocol):
    """Whole new weights and what they were made from.

    ``complete``: a whole U-Net is there, so that tensors which no erasure touches tell whether the base is right;
    ``certain``: the base needs no test, because the file brings it along.
    """

    header: Header
    family: Family
    names: list[str]
    complete: bool
    certain: bool

    @property
    def width(self) -> int:
        """Width of the text vectors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight, without reading it."""

    def pair(self, name: str) -> Pair:
        """The new and the old weight in float32 on the processor, in the old one's shape."""

    def readers(self, applies: str) -> list[str]:
        """All keys and/or values of the cross-attention that the model has."""


def without_text(header: Header) -> BadInput:
    """The error for a file that changes nothing but a text encoder, where the base has none."""
    return BadInput(
        f"{header.name} holds a text encoder, and the base was given without one. Connect the CLIP of the checkpoint "
        "to 'base_clip' as well, or give the whole model."
    )


class FileSource:
    """The weights of a file beside those of a base."""

    certain = False

    def __init__(self, header: Header, whole: Whole, weights: Mapping[str, Any]) -> None:
        self.header, self.family, self.complete = header, whole.family, whole.complete
        self._keys, self._weights = whole.keys, weights
        self._places: Mapping[str, str] = by_name(weights, whole.family)
        self.names = [name for name in whole.keys if name.startswith("unet.") or name in self._places]
        self.missing = len(whole.keys) - len(self.names)
        if not self.names:
            raise without_text(header)

    @property
    def width(self) -> int:
        """Width of the text vectors."""
        return self.family.context

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the model's weight."""
        return tuple(self.family.shapes()[name])

    def pair(self, name: str) -> Pair:
        """The file's and the base's weight ``name``."""
        old = self._weights[self._places[name]] if name in self._places else None
        if not isinstance(old, Tensor):
            raise BadInput(f"The base has no weight {name}. Give the whole model, or all of its weights by name.")
        slot = self._keys[name]
        new = slice_of(read_tensors(self.header, [slot.key])[slot.key], slot)
        return new.float().reshape(old.shape), old.detach().to("cpu", torch.float32)

    def readers(self, applies: str) -> list[str]:
        """The base's keys and/or values of the cross-attention."""
        return cross_attention_names(self._places, applies)

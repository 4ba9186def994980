"""Reader of ESD's wrapper files: trained layers beside the original ones, numbered and without names.

``ft_modules_list.N.weight`` is layer N after training, ``orig_modules_list.N.weight`` before it. Which layer that is
the file does not say, but its original weights do: they are looked up by content, in the copy of the whole model that
such files often hold as ``model.…``, else in the base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..erasure import Erasure, cross_attention_names
from ..errors import BadInput, UnknownFormat, WrongFamily
from ..keys import Family, family_of
from .absolute import Reading, erasure_of
from .base_rule import differs
from .detect import WRAPPER
from .files import Header, read_tensors
from .matching import bias_name
from .parts import plain_key
from .sources import Pair
from .whole import by_name

_LISTED = re.compile(r"(ft|orig)_modules_list\.(\d+)\.(weight|bias)")
_INNER = re.compile(r"^model\.(?!diffusion_model\.)(?:unet\.)?")


class WrapperSource:
    """Trained and original layers of one wrapper file, under the names that were found for them."""

    complete = False
    certain = True  # the originals are in the file

    def __init__(self, header: Header, family: Family, keys: Mapping[str, tuple[str, str]]) -> None:
        self.header, self.family, self._keys = header, family, keys
        self.names = list(keys)

    @property
    def width(self) -> int:
        """Width of the text vectors."""
        return self.family.context

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the model's weight."""
        return tuple(self.family.shapes()[name])

    def pair(self, name: str) -> Pair:
        """The trained and the original weight."""
        trained, original = self._keys[name]
        found = read_tensors(self.header, [trained, original])
        return found[trained].float(), found[original].float()

    def readers(self, applies: str) -> list[str]:
        """All keys and/or values of the family's cross-attention."""
        return cross_attention_names(self.family.shapes(), applies)


def read_wrapper(header: Header, base: Any, families: Sequence[Family], reading: Reading) -> Erasure:
    """The difference of trained and original layers. Raises UnknownFormat if the layers cannot be told."""
    layers: dict[str, dict[str, str]] = {}
    for key in header.shapes:
        match = _LISTED.fullmatch(plain_key(key))
        if match:
            layers.setdefault(match.group(2), {})[f"{match.group(1)}.{match.group(3)}"] = key
    if not any({"ft.weight", "orig.weight"} <= parts.keys() for parts in layers.values()):
        raise UnknownFormat(
            f"{header.name} is {WRAPPER.title}, but the original layers are not in it, so nothing says which layer "
            "each tensor belongs to. Export it again as an ordinary U-Net or LoRA with the program that made it."
        )
    inner = {_INNER.sub("", plain_key(key)): key for key in header.shapes if _INNER.match(plain_key(key))}
    if inner:
        family = _family({name: header.shapes[key] for name, key in inner.items()}, families)
        names = by_name(inner, family)
        known = ((name, read_tensors(header, [inner[key]])[inner[key]]) for name, key in names.items())
    elif base is not None:
        weights = base if isinstance(base, Mapping) else base.weights()
        family = family_of(weights)
        known = ((name, weights[key]) for name, key in by_name(weights, family).items())
    else:
        raise BadInput(
            f"{header.name} is {WRAPPER.title}. Connect the MODEL of the checkpoint that it was made from to 'base' of "
            "Load Membrane (or give --base), so that its layers can be told by their weights."
        )
    keys = dict(_named(header, layers, known))
    erasure = erasure_of(WrapperSource(header, family, keys), base, reading)
    return replace(erasure, recipe={**erasure.recipe, "format": WRAPPER.name})


def _family(shapes: Mapping[str, tuple[int, ...]], families: Sequence[Family]) -> Family:
    own = family_of(shapes)
    fitting = next((family for family in families if family.denoiser == own.denoiser), None)
    if fitting is None:
        raise WrongFamily(
            f"The file was made for a {own.name} of other layers than {' or '.join(f.name for f in families)}. "
            "Use it with the model it was made for."
        )
    return fitting


def _named(
    header: Header, layers: Mapping[str, Mapping[str, str]], known: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Canonical name -> keys of the trained and the original tensor, each weight recognised by its content."""
    open_by_shape: dict[tuple[int, ...], list[tuple[str, Tensor]]] = {}
    for number, parts in layers.items():
        if {"ft.weight", "orig.weight"} <= parts.keys():
            key = parts["orig.weight"]
            original = read_tensors(header, [key])[key].float()
            open_by_shape.setdefault(tuple(original.shape), []).append((number, original))
    left = sum(map(len, open_by_shape.values()))
    for name, weight in known:
        waiting = open_by_shape.get(tuple(weight.shape), [])
        plain = weight.detach().to("cpu", torch.float32)
        place = next((i for i, (_, original) in enumerate(waiting) if not differs(original, plain)), None)
        if place is None or not name.endswith(".weight"):
            continue
        number, _ = waiting.pop(place)
        left -= 1
        parts = layers[number]
        yield name, (parts["ft.weight"], parts["orig.weight"])
        if {"ft.bias", "orig.bias"} <= parts.keys():
            yield bias_name(name), (parts["ft.bias"], parts["orig.bias"])
    if left:
        raise UnknownFormat(
            f"{header.name} is {WRAPPER.title}, and {left} of its {len(layers)} layers are not in this base. Give the "
            "base it was made from, or export it again as an ordinary U-Net with the program that made it."
        )

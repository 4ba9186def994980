"""The weights of a MODEL and a CLIP by canonical name, as the graph so far has made them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.errors import BadInput, IllConditioned
from ..erasure_core.keys import Family
from . import host

_SAMPLED = 64  # numbers of each weight, evenly spaced, that its fingerprint looks at


class HostWeights(Mapping[str, Tensor]):
    """Canonical name -> float32 copy on the processor: base weight, dequantised, with the LoRAs of earlier nodes.

    Our own changes are left out, so that several membranes add up whatever the order of their nodes.
    """

    def __init__(self, family: Family, model: Any, text: Any = None) -> None:
        self._patchers = [model] if text is None else [text, model]
        self._shapes = {name: shape for patcher in self._patchers for name, shape in host.shapes(patcher).items()}
        self.slots = {ours: slot for ours, slot in family.host_slots().items() if slot.key in self._shapes}

    @cached_property
    def _patches(self) -> Mapping[str, Any]:
        return {name: found for patcher in self._patchers for name, found in host.key_patches(patcher).items()}

    def fingerprint(self) -> str:
        """Hex digits that are equal for equal weights: of some numbers of each as it is stored, found in milliseconds.

        Of weights that LoRAs of earlier nodes change, all numbers count as they are then.
        """
        digest = hashlib.sha256()
        for name, slot in self.slots.items():
            if slot.key not in self._patches:
                continue  # packed weights, which cannot be read as numbers either
            (weight, _), *patches = self._patches[slot.key]
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            packed = type(weight.data) is not Tensor
            if any(not host.is_ours(patch) for patch in patches) or (packed and not hasattr(weight, "tensor_type")):
                digest.update(self[name].numpy().tobytes())
            elif weight.is_floating_point() and not hasattr(weight, "tensor_type"):
                flat = weight.detach().reshape(-1)
                sample = flat[:: max(1, len(flat) // _SAMPLED)].contiguous().view(torch.uint8)
                digest.update(sample.cpu().numpy().tobytes())
        return digest.hexdigest()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight, without reading any."""
        return {ours: slot.shape(self._shapes[slot.key]) for ours, slot in self.slots.items()}

    def __getitem__(self, name: str) -> Tensor:
        slot = self.slots[name]
        key = slot.key
        if key not in self._patches:
            raise BadInput(_quantised(name, "in a packed form"))
        (weight, dequantise), *patches = self._patches[key]
        if not weight.is_floating_point() or hasattr(weight, "tensor_type"):
            raise BadInput(_quantised(name, str(getattr(weight, "tensor_type", weight.dtype))))
        plain = dequantise(weight.detach().to("cpu", torch.float32, copy=True))
        whole = host.weight_with(plain, [patch for patch in patches if not host.is_ours(patch)], key)
        result = slot.taken(whole)
        if not torch.isfinite(result).all():
            raise IllConditioned(f"The model's weight {name} holds NaN or infinite values. Load an intact checkpoint.")
        return result

    def __contains__(self, name: object) -> bool:
        return name in self.slots  # Mapping's own test would copy the weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)


def _quantised(name: str, how: str) -> str:
    return (
        f"The weight {name} is quantised ({how}) and cannot be read as numbers. "
        "Apply the erasure to the text (act_on = text), which needs no weight, or load the model unquantised."
    )

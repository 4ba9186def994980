"""Cross-attention maps while training: how much each place of a picture looks at given words, with gradients."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..chain import Place
from ..errors import NothingMatched
from ..guidance.attention.heads import apart, wide
from ..keys.layout import Shape
from .trainable import Network

_QUERY = ".attn2.to_q"


class Maps:
    """Queries and keys of every cross-attention in the latest evaluation of the network."""

    def __init__(self, heads: Mapping[str, int]) -> None:
        self._heads = heads
        self._seen: dict[tuple[str, str], Tensor] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """Canonical names of the attentions, "unet...attn2"."""
        return tuple(self._heads)

    def of(self, layer: str, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """``softmax(Q K^T / sqrt(d))`` [rows, heads, places, tokens] of one attention: its columns of ``tokens``."""
        picked = list(rows)
        q, k = (wide(apart(self._seen[layer, part][picked], self._heads[layer])) for part in ("to_q", "to_k"))
        return (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)[..., list(tokens)]

    def note(self, layer: str, part: str, place: Place) -> Any:
        """A hook that keeps what the module gives."""

        def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            own = out if place.length is None else out[..., place.start : place.start + place.length]
            self._seen[layer, part] = own

        return keep


@contextmanager
def watched(network: Network, shapes: Mapping[str, Shape]) -> Iterator[Maps]:
    """In the block the maps of all cross-attentions are seen, with the changes that earlier hooks make.

    ``shapes``: of every weight by canonical name. Raises NothingMatched for a network without cross-attention.
    """
    layers = [name.removesuffix(".to_q.weight") for name in shapes if name.endswith(f"{_QUERY}.weight")]
    if not layers:
        raise NothingMatched("This model has no cross-attention whose maps could be trained. Choose another method.")
    maps = Maps({layer: network.heads(layer) for layer in layers})
    handles = []
    try:
        for layer in layers:
            for part in ("to_q", "to_k"):
                place = network.place(f"{layer}.{part}")
                handles.append(place.module.register_forward_hook(maps.note(layer, part, place)))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def suppression(maps: Maps, rows: Sequence[int], tokens: Collection[int], mask: Tensor) -> Tensor:
    """MACE's loss (arXiv 2403.06135, eq. 4): over rows and attentions, the sum of ``|A[mask, tokens]|_F``.

    All heads of an attention count as one matrix. ``mask`` [h, w] over the latent, 1 where attention is suppressed.
    """
    total = mask.new_zeros(())
    for layer in maps.layers:
        attention = maps.of(layer, rows, sorted(tokens))
        here = _resized(mask, attention.shape[2]).to(attention)
        squares = (attention.square() * here[None, None, :, None]).sum((1, 2, 3))
        total = total + (squares + 1e-12).sqrt().sum().to(total)  # a root has no slope at 0
    return total


def looked_at(maps: Maps, rows: Sequence[int], tokens: Collection[int], size: tuple[int, int]) -> Tensor:
    """How much the places of a picture look at ``tokens``, [h, w] in 0..1: the mean over rows, attentions and heads."""
    total = torch.zeros(1, 1, *size)
    for layer in maps.layers:
        own = maps.of(layer, rows, sorted(tokens)).mean((0, 1, 3)).cpu()
        places = own.reshape(1, 1, *_shape(size, len(own)))
        total += F.interpolate(places, size=size, mode="bilinear", align_corners=False)
    low, high = total.min(), total.max()
    return ((total - low) / (high - low).clamp_min(1e-12))[0, 0]


def _resized(mask: Tensor, places: int) -> Tensor:
    """The mask on a coarser grid, [places]: 1 where any of its parts is."""
    shape = _shape((mask.shape[0], mask.shape[1]), places)
    return F.adaptive_max_pool2d(mask[None, None].float(), shape).flatten()


def _shape(size: tuple[int, int], places: int) -> tuple[int, int]:
    """Height and width of a layer with so many places; each level of the network halves, rounding up."""
    height, width = size
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width

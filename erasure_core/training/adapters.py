"""What is trained: a small addition to each chosen layer, from which the erasure's weight deltas are made.

A low-rank pair as in SPM (arXiv 2312.16145, rank 1) and LoRA, or the whole difference of a weight as ESD
(arXiv 2303.07345) trains it. Both are added to what the frozen layer gives, so that taking them off is exact and one
network serves as teacher and as student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..chain import Place
from ..erasure import WeightDelta
from ..keys.layout import Shape
from ..layers import full_change, projected

KAIMING = {"lora": math.sqrt(5), "slider": 1.0}  # the slope in U(-b, b), b = sqrt(6 / ((1 + a^2) inputs))


class LowRankLayer:
    """``y = W x + scale * up (down x)``; ``up`` starts at zero, so that nothing is changed before training.

    ``down`` [r, i] or [r, i, kh, kw] and ``up`` [o, r], float32; ``scale`` = alpha / r.
    """

    def __init__(self, shape: Shape, rank: int, alpha: float, slope: float, source: torch.Generator) -> None:
        inputs = math.prod(shape[1:])
        bound = math.sqrt(6 / ((1 + slope**2) * inputs))
        down = torch.rand((rank, *shape[1:]), generator=source) * 2 * bound - bound
        self.parameters = {"down": nn.Parameter(down), "up": nn.Parameter(torch.zeros(shape[0], rank))}
        self.scale = alpha / rank

    def change(self, module: Any, x: Tensor) -> Tensor:
        """What is added to the layer's output for the input x [B, ...]."""
        down, up = (self.parameters[name].to(x.dtype) for name in ("down", "up"))
        inner = projected(module, x, down) * self.scale
        return F.conv2d(inner, up[:, :, None, None]) if x.dim() == 4 else F.linear(inner, up)

    def deltas(self, layer: str, values: Mapping[str, Tensor]) -> list[WeightDelta]:
        """The change of the weight, from the values of the parameters."""
        down, up = values["down"].contiguous(), values["up"]
        shaped = up[:, :, None, None] if down.dim() == 4 else up
        return [WeightDelta(f"{layer}.weight", down, shaped.contiguous(), scale=self.scale)]


class WholeLayer:
    """``y = (W + diff) x``, with the difference of the bias where the layer has one; both start at zero, float32."""

    def __init__(self, shape: Shape, bias: bool) -> None:
        self.parameters = {"diff": nn.Parameter(torch.zeros(shape))}
        if bias:
            self.parameters["bias"] = nn.Parameter(torch.zeros(shape[0]))

    def change(self, module: Any, x: Tensor) -> Tensor:
        """What is added to the layer's output for the input x [B, ...]."""
        bias = self.parameters.get("bias")
        return full_change(module, x, self.parameters["diff"].to(x.dtype), None if bias is None else bias.to(x.dtype))

    def deltas(self, layer: str, values: Mapping[str, Tensor]) -> list[WeightDelta]:
        """The changes of weight and bias, from the values of the parameters."""
        found = [WeightDelta(f"{layer}.weight", diff=values["diff"])]
        return found + ([WeightDelta(f"{layer}.bias", diff=values["bias"])] if "bias" in values else [])


class Adapter:
    """Additions to several layers, and hooks that put them in force while :attr:`on`."""

    def __init__(self, layers: Mapping[str, LowRankLayer | WholeLayer]) -> None:
        self.layers = dict(layers)
        self.on = False
        self._handles: list[Any] = []

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything trained: "layer.down" and so on, float32."""
        return {f"{name}.{part}": p for name, layer in self.layers.items() for part, p in layer.parameters.items()}

    def to(self, device: torch.device) -> None:
        """Move the parameters."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(device)

    @contextmanager
    def attached(self, places: Mapping[str, Place]) -> Iterator[None]:
        """In the block every layer's output has its addition whenever :attr:`on`; after it no hook is left."""
        try:
            for name, place in places.items():
                self._handles.append(place.module.register_forward_hook(self._hook(self.layers[name], place)))
            yield
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles, self.on = [], False

    @contextmanager
    def acting(self, on: bool) -> Iterator[None]:
        """In force, or out of it, for the length of a block."""
        before, self.on = self.on, on
        try:
            yield
        finally:
            self.on = before

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Other values, as those of a moving average, for the length of a block without gradients."""
        own = {name: p.data for name, p in self.parameters.items()}
        try:
            for name, p in self.parameters.items():
                p.data = values[name]
            yield
        finally:
            for name, p in self.parameters.items():
                p.data = own[name]

    def deltas(self, values: Mapping[str, Tensor] | None = None) -> dict[str, WeightDelta]:
        """The trained changes by canonical name of the weight, float32 on the processor; or those of ``values``."""
        chosen = values or self.parameters
        found: dict[str, WeightDelta] = {}
        for name, layer in self.layers.items():
            own = {part: chosen[f"{name}.{part}"].detach().float().cpu().clone() for part in layer.parameters}
            found |= {delta.name: delta for delta in layer.deltas(name, own)}
        return found

    def _hook(self, layer: LowRankLayer | WholeLayer, place: Place) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            if not self.on:
                return None
            change = layer.change(module, args[0])
            if place.length is None:
                return out + change
            end = place.start + place.length
            part = out[..., place.start : end] + change
            return torch.cat([out[..., : place.start], part, out[..., end:]], dim=-1)

        return add


def low_rank(
    shapes: Mapping[str, Shape],
    layers: Sequence[str],
    rank: int,
    alpha: float,
    slope: float,
    source: torch.Generator,
) -> Adapter:
    """A pair of rank ``rank`` on every layer; the rank of a smaller layer is its size."""
    made: dict[str, LowRankLayer | WholeLayer] = {}
    for layer in layers:
        shape = tuple(shapes[f"{layer}.weight"])
        own = min(rank, shape[0], math.prod(shape[1:]))
        made[layer] = LowRankLayer(shape, own, alpha * own / rank, slope, source)
    return Adapter(made)


def whole(shapes: Mapping[str, Shape], layers: Sequence[str]) -> Adapter:
    """The whole difference of every layer's weight and bias."""
    return Adapter({layer: WholeLayer(tuple(shapes[f"{layer}.weight"]), f"{layer}.bias" in shapes) for layer in layers})

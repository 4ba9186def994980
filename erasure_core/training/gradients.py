"""Gradients of whole weights as what they are: for every token an outer product of what came in and comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..chain import Place


@dataclass(frozen=True)
class Factors:
    """A gradient ``up @ down`` [o, i] of a linear layer's weight: ``down`` [n, i], ``up`` [o, n], a term a token."""

    down: Tensor
    up: Tensor

    def dense(self) -> Tensor:
        """The gradient itself, float64."""
        return self.up.double() @ self.down.double()


class Tape:
    """What goes into and comes out of layers, with their gradients to be asked for."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(self, layer: str) -> Any:
        """A hook that keeps a layer's input and output, from where on gradients flow."""

        def keep(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            out = out if out.requires_grad else out.detach().requires_grad_()
            self._seen[layer] = args[0].detach(), out
            return out

        return keep

    def gradients(self, loss: Tensor) -> dict[str, Factors]:
        """Of every layer that the loss depends on; tokens that get no gradient are left out."""
        layers = list(self._seen)
        outs = [self._seen[layer][1] for layer in layers]
        found: dict[str, Factors] = {}
        for layer, slope in zip(layers, torch.autograd.grad(loss, outs, allow_unused=True), strict=True):
            if slope is None:
                continue
            place = self._places[layer]
            if place.length is not None:
                slope = slope[..., place.start : place.start + place.length]
            rows, slopes = self._seen[layer][0].flatten(0, -2), slope.flatten(0, -2)
            used = slopes.abs().amax(1) > 0
            if used.any():
                found[layer] = Factors(rows[used].float().cpu(), slopes[used].T.float().cpu().contiguous())
        return found


@contextmanager
def taped(places: Mapping[str, Place]) -> Iterator[Tape]:
    """In the block every evaluation of the layers at ``places`` is kept; the latest counts."""
    tape = Tape(places)
    handles = [place.module.register_forward_hook(tape.note(layer)) for layer, place in places.items()]
    try:
        yield tape
    finally:
        for handle in handles:
            handle.remove()

"""The U-Net of Stable Diffusion 1, 2 and XL as numbers, from which every weight's name and shape follows.

The three models and small ones of the same kind differ only in these numbers, so a file can be understood with no
model at hand, and a model of unusual depth needs no table of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


@dataclass(frozen=True)
class UNetLayout:
    """Numbers of one U-Net.

    ``channels``: width of each level, the upper one first. ``down``, ``up``: per block and ResNet the depth of the
    transformer behind it, 0 where there is none; ``up`` starts at the lowest level, as it runs. ``middle``: depth of
    the transformer in the middle. ``context``: width of the text vectors. ``linear``: whether the transformers'
    projections are matrices (SD2, SDXL) or 1x1 convolutions (SD1). ``time``: width of the time embedding.
    ``label``: inputs of the label embedding, None without one. ``inputs``, ``outputs``: latent channels.
    """

    root: ClassVar[str] = "unet"

    channels: tuple[int, ...]
    down: tuple[tuple[int, ...], ...]
    middle: int
    up: tuple[tuple[int, ...], ...]
    context: int
    linear: bool
    time: int
    label: int | None = None
    inputs: int = 4
    outputs: int = 4

    def shapes(self) -> dict[str, Shape]:
        """Every weight and bias by diffusers name (without the ``unet.`` root), with its shape."""
        return dict(self._all())

    def _all(self) -> Named:
        first = self.channels[0]
        yield from _conv("conv_in", self.inputs, first, 3)
        yield from _embedding("time_embedding", first, self.time)
        if self.label is not None:
            yield from _embedding("add_embedding", self.label, self.time)
        yield from self._down()
        yield from self._middle()
        yield from self._up()
        yield from _norm("conv_norm_out", first)
        yield from _conv("conv_out", first, self.outputs, 3)

    def _down(self) -> Named:
        before = self.channels[0]
        for b, (width, depths) in enumerate(zip(self.channels, self.down, strict=True)):
            for a, depth in enumerate(depths):
                yield from self._pair(f"down_blocks.{b}", a, before, width, depth)
                before = width
            if b + 1 < len(self.channels):
                yield from _conv(f"down_blocks.{b}.downsamplers.0.conv", width, width, 3)

    def _middle(self) -> Named:
        width = self.channels[-1]
        yield from self._pair("mid_block", 0, width, width, self.middle)
        yield from _resnet("mid_block.resnets.1", width, width, self.time)

    def _up(self) -> Named:
        skips = self._skips()
        before = self.channels[-1]
        for b, (width, depths) in enumerate(zip(reversed(self.channels), self.up, strict=True)):
            for a, depth in enumerate(depths):
                yield from self._pair(f"up_blocks.{b}", a, before + skips.pop(), width, depth)
                before = width
            if b + 1 < len(self.channels):
                yield from _conv(f"up_blocks.{b}.upsamplers.0.conv", width, width, 3)

    def _skips(self) -> list[int]:
        """Widths of the connections from the downward to the upward half, in the order they are made."""
        widths = [self.channels[0]]
        for b, (width, depths) in enumerate(zip(self.channels, self.down, strict=True)):
            widths += [width] * (len(depths) + (b + 1 < len(self.channels)))
        return widths

    def _pair(self, block: str, index: int, before: int, width: int, depth: int) -> Named:
        yield from _resnet(f"{block}.resnets.{index}", before, width, self.time)
        if depth:
            yield from self._transformer(f"{block}.attentions.{index}", width, depth)

    def _transformer(self, name: str, width: int, depth: int) -> Named:
        yield from _norm(f"{name}.norm", width)
        for projection in ("proj_in", "proj_out"):
            yield from (linear if self.linear else _point)(f"{name}.{projection}", width, width)
        for index in range(depth):
            block = f"{name}.transformer_blocks.{index}"
            for part in ("norm1", "norm2", "norm3"):
                yield from _norm(f"{block}.{part}", width)
            for attention, source in (("attn1", width), ("attn2", self.context)):
                yield f"{block}.{attention}.to_q.weight", (width, width)
                yield f"{block}.{attention}.to_k.weight", (width, source)
                yield f"{block}.{attention}.to_v.weight", (width, source)
                yield from linear(f"{block}.{attention}.to_out.0", width, width)
            yield from linear(f"{block}.ff.net.0.proj", width, 8 * width)
            yield from linear(f"{block}.ff.net.2", 4 * width, width)


def _resnet(name: str, before: int, width: int, time: int) -> Named:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", before, width, 3)
    yield from linear(f"{name}.time_emb_proj", time, width)
    yield from _norm(f"{name}.norm2", width)
    yield from _conv(f"{name}.conv2", width, width, 3)
    if before != width:
        yield from _point(f"{name}.conv_shortcut", before, width)


def _embedding(name: str, before: int, width: int) -> Named:
    yield from linear(f"{name}.linear_1", before, width)
    yield from linear(f"{name}.linear_2", width, width)


def linear(name: str, before: int, width: int) -> Named:
    """Weight and bias of a linear layer from ``before`` to ``width`` numbers."""
    yield f"{name}.weight", (width, before)
    yield f"{name}.bias", (width,)


def _conv(name: str, before: int, width: int, kernel: int) -> Named:
    yield f"{name}.weight", (width, before, kernel, kernel)
    yield f"{name}.bias", (width,)


def _point(name: str, before: int, width: int) -> Named:
    yield from _conv(name, before, width, 1)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)

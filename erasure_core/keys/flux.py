"""The transformer of Flux (dev, schnell and smaller ones) as numbers: names by diffusers and by its authors, shapes.

Diffusers keeps queries, keys and values as matrices of their own. The authors' code, and with it ComfyUI and kohya,
stacks them: ``qkv`` of a double block holds three of them, ``linear1`` of a single block these three and the
perceptron's first matrix. A canonical weight is therefore some rows of one of theirs, see :class:`.text.Slot`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import UnknownFormat
from .layout import Named, Shape, linear
from .text import Slot

_TIME = 256  # sinusoids of the timestep and of the guidance scale
_EMBEDDERS = {"timestep_embedder": "time_in", "guidance_embedder": "guidance_in", "text_embedder": "vector_in"}
_SIDES = (("", "img", ("to_q", "to_k", "to_v")), ("_context", "txt", ("add_q_proj", "add_k_proj", "add_v_proj")))
_OUT = {"img": "to_out.0", "txt": "to_add_out"}
_NORMS = {"img": ("norm_q", "norm_k"), "txt": ("norm_added_q", "norm_added_k")}
_BLOCKS = {  # a weight of each double and single block, by diffusers' names and by the authors'
    False: ("transformer_blocks.{}.attn.add_q_proj", "single_transformer_blocks.{}.proj_mlp"),
    True: ("double_blocks.{}.txt_attn.qkv", "single_blocks.{}.linear1"),
}
_OWN = re.compile(r"double_blocks\.0\.txt_attn\.qkv\.weight|transformer_blocks\.0\.attn\.add_q_proj\.weight")


@dataclass(frozen=True)
class FluxLayout:
    """Numbers of one transformer.

    ``width``: of its vectors. ``head``: width of one attention head. ``double``, ``single``: how many blocks of either
    kind. ``inner``: width inside the perceptrons. ``context``: width of the T5 vectors. ``pooled``: width of CLIP's
    pooled vector. ``guidance``: whether the guidance scale is an input (dev; not schnell). ``inputs``, ``outputs``:
    numbers in a patch of latents. ``norm``: what the authors' code calls the factors of a norm, which depends on its
    release.
    """

    root: ClassVar[str] = "transformer"

    width: int
    head: int
    double: int
    single: int
    inner: int
    context: int
    pooled: int
    guidance: bool = True
    inputs: int = 64
    outputs: int = 64
    norm: str = "scale"

    def shapes(self) -> dict[str, Shape]:
        """Every weight and bias by diffusers name (without the ``transformer.`` root), with its shape."""
        return {name: shape for name, _, shape in self._all()}

    def slots(self) -> dict[str, Slot]:
        """Diffusers name -> place by the authors' names, both without root or prefix."""
        return {name: slot for name, slot, _ in self._all()}

    def _all(self) -> Iterator[tuple[str, Slot, Shape]]:
        w = self.width
        yield from _whole("x_embedder", "img_in", linear("", self.inputs, w))
        yield from _whole("context_embedder", "txt_in", linear("", self.context, w))
        for ours, theirs in _EMBEDDERS.items():
            if theirs != "guidance_in" or self.guidance:
                before = self.pooled if theirs == "vector_in" else _TIME
                yield from _whole(f"time_text_embed.{ours}.linear_1", f"{theirs}.in_layer", linear("", before, w))
                yield from _whole(f"time_text_embed.{ours}.linear_2", f"{theirs}.out_layer", linear("", w, w))
        for index in range(self.double):
            yield from self._double(f"transformer_blocks.{index}", f"double_blocks.{index}")
        for index in range(self.single):
            yield from self._single(f"single_transformer_blocks.{index}", f"single_blocks.{index}")
        last = "final_layer.adaLN_modulation.1"
        for name, slot, shape in _whole("norm_out.linear", last, linear("", w, 2 * w)):
            yield name, Slot(slot.key, swapped=True), shape  # scale and shift stand in the other order
        yield from _whole("proj_out", "final_layer.linear", linear("", w, self.outputs))

    def _double(self, ours: str, theirs: str) -> Iterator[tuple[str, Slot, Shape]]:
        w = self.width
        for ending, side, queries in _SIDES:
            yield from _whole(f"{ours}.norm1{ending}.linear", f"{theirs}.{side}_mod.lin", linear("", w, 6 * w))
            yield from self._rows(f"{ours}.attn", queries, f"{theirs}.{side}_attn.qkv")
            yield from self._norms(f"{ours}.attn", _NORMS[side], f"{theirs}.{side}_attn.norm")
            yield from _whole(f"{ours}.attn.{_OUT[side]}", f"{theirs}.{side}_attn.proj", linear("", w, w))
            feed = f"{ours}.ff{ending}.net"
            yield from _whole(f"{feed}.0.proj", f"{theirs}.{side}_mlp.0", linear("", w, self.inner))
            yield from _whole(f"{feed}.2", f"{theirs}.{side}_mlp.2", linear("", self.inner, w))

    def _single(self, ours: str, theirs: str) -> Iterator[tuple[str, Slot, Shape]]:
        w = self.width
        yield from _whole(f"{ours}.norm.linear", f"{theirs}.modulation.lin", linear("", w, 3 * w))
        yield from self._rows(f"{ours}.attn", ("to_q", "to_k", "to_v"), f"{theirs}.linear1")
        yield from self._norms(f"{ours}.attn", ("norm_q", "norm_k"), f"{theirs}.norm")
        for kind, shape in linear("", w, self.inner):
            yield f"{ours}.proj_mlp{kind}", Slot(f"{theirs}.linear1{kind}", 3 * w, self.inner), shape
        yield from _whole(f"{ours}.proj_out", f"{theirs}.linear2", linear("", w + self.inner, w))

    def _rows(self, ours: str, names: tuple[str, ...], theirs: str) -> Iterator[tuple[str, Slot, Shape]]:
        """Queries, keys and values as ``width`` rows each of one matrix of theirs."""
        for place, name in enumerate(names):
            for kind, shape in linear("", self.width, self.width):
                yield f"{ours}.{name}{kind}", Slot(f"{theirs}{kind}", place * self.width, self.width), shape

    def _norms(self, ours: str, names: tuple[str, str], theirs: str) -> Iterator[tuple[str, Slot, Shape]]:
        for name, part in zip(names, ("query_norm", "key_norm"), strict=True):
            yield f"{ours}.{name}.weight", Slot(f"{theirs}.{part}.{self.norm}"), (self.head,)


def _whole(ours: str, theirs: str, parts: Named) -> Iterator[tuple[str, Slot, Shape]]:
    return ((ours + kind, Slot(theirs + kind), shape) for kind, shape in parts)


def is_flux(names: Mapping[str, Shape]) -> bool:
    """Whether these weights (no root or prefix) are of such a transformer; others have no text stream beside images."""
    return any(_OWN.fullmatch(name) for name in names)


def flux_layout_of(shapes: Mapping[str, Shape]) -> FluxLayout:
    """The layout of a whole transformer from its weights' shapes by either kind of names (no root or prefix).

    Raises :class:`UnknownFormat` where a weight is missing that the others call for.
    """
    theirs = any(name.startswith("double_blocks.") for name in shapes)
    layout = _read(_Reader(shapes, theirs))
    wanted = [slot.key for slot in layout.slots().values()] if theirs else list(layout.shapes())
    missing = [name for name in dict.fromkeys(wanted) if name not in shapes]
    if missing:
        raise UnknownFormat(
            f"This Flux model lacks {len(missing)} of {len(set(wanted))} weights, the first is {missing[0]}. "
            "It is incomplete, or a relative of Flux that Membrane does not handle."
        )
    return layout


@dataclass(frozen=True)
class _Reader:
    """Shapes by the diffusers name of a weight that the authors' code does not stack with others."""

    shapes: Mapping[str, Shape]
    theirs: bool

    def __call__(self, ours: str, theirs: str) -> Shape:
        name = theirs if self.theirs else ours
        try:
            return self.shapes[name]
        except KeyError:
            raise UnknownFormat(f"This Flux model lacks the weight {name}: incomplete, or of another kind.") from None

    def has(self, ours: str, theirs: str) -> bool:
        return (theirs if self.theirs else ours) in self.shapes


def _read(of: _Reader) -> FluxLayout:
    double, single = _BLOCKS[of.theirs]
    norms = [f"double_blocks.0.img_attn.norm.query_norm.{name}" for name in ("weight", "scale")]
    norm = next((name for name in norms if name in of.shapes), norms[1])
    width, context = of("context_embedder.weight", "txt_in.weight")
    return FluxLayout(
        width=width,
        head=of("transformer_blocks.0.attn.norm_q.weight", norm)[0],
        double=_count(of.shapes, double),
        single=_count(of.shapes, single),
        inner=of("transformer_blocks.0.ff.net.0.proj.weight", "double_blocks.0.img_mlp.0.weight")[0],
        context=context,
        pooled=of("time_text_embed.text_embedder.linear_1.weight", "vector_in.in_layer.weight")[1],
        guidance=of.has("time_text_embed.guidance_embedder.linear_1.weight", "guidance_in.in_layer.weight"),
        inputs=of("x_embedder.weight", "img_in.weight")[1],
        outputs=of("proj_out.weight", "final_layer.linear.weight")[0],
        norm=norm.rpartition(".")[2],
    )


def _count(shapes: Mapping[str, Shape], module: str) -> int:
    index = 0
    while f"{module.format(index)}.weight" in shapes:
        index += 1
    return index

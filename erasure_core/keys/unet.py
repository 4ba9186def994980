"""U-Net names: diffusers <-> LDM (checkpoints, ComfyUI), and the layout of a network from either.

With n ResNets per level, level b and ResNet a of the downward half are ``input_blocks.{1 + (n + 1) b + a}``, of the
upward half ``output_blocks.{(n + 1) b + a}``; the ResNet is part 0 and the transformer part 1 of its block. Counting
blocks instead of using the product also covers levels of different depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..errors import UnknownFormat
from .layout import Shape, UNetLayout

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_FIXED = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def ldm_names(layout: UNetLayout) -> dict[str, str]:
    """Diffusers name -> LDM name of every weight, both without root or prefix."""
    modules = _FIXED | dict(_down_modules(layout)) | dict(_middle_modules(layout)) | dict(_up_modules(layout))
    return {name: _translate(name, modules) for name in layout.shapes()}


def _translate(name: str, modules: Mapping[str, str]) -> str:
    """The longest known module in front of ``name`` replaced; what is inside a transformer keeps its name."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:cut]))
        if module is not None:
            return ".".join([module, *parts[cut:]])
    raise UnknownFormat(f"The weight {name} has no place in a Stable Diffusion U-Net.")


def _down_modules(layout: UNetLayout) -> Iterator[tuple[str, str]]:
    index = 1
    for b, depths in enumerate(layout.down):
        for a, depth in enumerate(depths):
            yield from _pair(f"down_blocks.{b}", a, f"input_blocks.{index}", depth)
            index += 1
        if b + 1 < len(layout.down):
            yield f"down_blocks.{b}.downsamplers.0.conv", f"input_blocks.{index}.0.op"
            index += 1


def _middle_modules(layout: UNetLayout) -> Iterator[tuple[str, str]]:
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    if layout.middle:
        yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2" if layout.middle else "middle_block.1")


def _up_modules(layout: UNetLayout) -> Iterator[tuple[str, str]]:
    index = 0
    for b, depths in enumerate(layout.up):
        for a, depth in enumerate(depths):
            yield from _pair(f"up_blocks.{b}", a, f"output_blocks.{index}", depth)
            if a + 1 == len(depths) and b + 1 < len(layout.up):
                yield f"up_blocks.{b}.upsamplers.0.conv", f"output_blocks.{index}.{2 if depth else 1}.conv"
            index += 1


def _pair(block: str, index: int, target: str, depth: int) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{block}.resnets.{index}", f"{target}.0")
    if depth:
        yield f"{block}.attentions.{index}", f"{target}.1"


def _resnet(module: str, target: str) -> Iterator[tuple[str, str]]:
    return ((f"{module}.{ours}", f"{target}.{theirs}") for ours, theirs in _RESNET.items())


def layout_of(shapes: Mapping[str, Shape]) -> UNetLayout:
    """The layout of a whole U-Net from its weights' shapes by diffusers or LDM names (no root or prefix).

    Raises :class:`UnknownFormat` where a weight is missing that the others call for.
    """
    if any(name.startswith("input_blocks.") for name in shapes):
        layout = _from_ldm(shapes)
        expected: Sequence[str] = list(ldm_names(layout).values())
    else:
        layout = _from_diffusers(shapes)
        expected = list(layout.shapes())
    missing = [name for name in expected if name not in shapes]
    if missing:
        raise UnknownFormat(
            f"This U-Net lacks {len(missing)} of {len(expected)} weights, the first is {missing[0]}. "
            "It is incomplete, or not a Stable Diffusion 1, 2 or XL network."
        )
    return layout


def _from_diffusers(shapes: Mapping[str, Shape]) -> UNetLayout:
    def resnet(side: str, b: int, a: int) -> str:
        return f"{side}_blocks.{b}.resnets.{a}.conv1.weight"

    def block(side: str, b: int) -> list[int]:
        resnets = _count(shapes, lambda a: resnet(side, b, a))
        return [_depth(shapes, f"{side}_blocks.{b}.attentions.{a}") for a in range(resnets)]

    def blocks(side: str) -> list[list[int]]:
        return [block(side, b) for b in range(_count(shapes, lambda b: resnet(side, b, 0)))]

    down = blocks("down")
    channels = [_of(shapes, resnet("down", b, 0))[0] for b in range(len(down))]
    return _assemble(shapes, channels, down, blocks("up"), "mid_block.attentions.0", {})


def _from_ldm(shapes: Mapping[str, Shape]) -> UNetLayout:
    down: list[list[int]] = [[]]
    channels: list[int] = []
    for index in range(1, _count(shapes, lambda i: _ldm_input(shapes, i + 1)) + 1):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            down.append([])
            continue
        if not down[-1]:
            channels.append(_of(shapes, f"input_blocks.{index}.0.in_layers.2.weight")[0])
        down[-1].append(_depth(shapes, f"input_blocks.{index}.1"))
    up: list[list[int]] = [[]]
    outputs = _count(shapes, lambda i: f"output_blocks.{i}.0.in_layers.2.weight")
    for index in range(outputs):
        up[-1].append(_depth(shapes, f"output_blocks.{index}.1"))
        if any(f"output_blocks.{index}.{part}.conv.weight" in shapes for part in (1, 2)):
            up.append([])
    return _assemble(shapes, channels, down, up, "middle_block.1", _FIXED)


def _ldm_input(shapes: Mapping[str, Shape], index: int) -> str:
    op = f"input_blocks.{index}.0.op.weight"
    return op if op in shapes else f"input_blocks.{index}.0.in_layers.2.weight"


def _assemble(
    shapes: Mapping[str, Shape],
    channels: list[int],
    down: list[list[int]],
    up: list[list[int]],
    middle: str,
    names: Mapping[str, str],
) -> UNetLayout:
    def shape(module: str) -> Shape:
        return _of(shapes, names.get(module, module) + ".weight")

    attention = next((name for name in shapes if name.endswith(".attn2.to_k.weight")), None)
    if attention is None or not down or len(down) != len(up) or not all(map(len, down + up)):
        raise UnknownFormat(
            "This is not a Stable Diffusion 1, 2 or XL U-Net: no cross-attention in the usual block structure."
        )
    projection = attention.split(".transformer_blocks.")[0] + ".proj_in.weight"
    label = names.get("add_embedding.linear_1", "add_embedding.linear_1") + ".weight"
    return UNetLayout(
        channels=tuple(channels),
        down=tuple(map(tuple, down)),
        middle=_depth(shapes, middle),
        up=tuple(map(tuple, up)),
        context=shapes[attention][1],
        linear=len(_of(shapes, projection)) == 2,
        time=shape("time_embedding.linear_1")[0],
        label=shapes[label][1] if label in shapes else None,
        inputs=shape("conv_in")[1],
        outputs=shape("conv_out")[0],
    )


def _of(shapes: Mapping[str, Shape], name: str) -> Shape:
    try:
        return shapes[name]
    except KeyError:
        raise UnknownFormat(f"This U-Net lacks the weight {name}, so it is incomplete or of another kind.") from None


def _count(shapes: Mapping[str, Shape], name: Callable[[int], str]) -> int:
    index = 0
    while name(index) in shapes:
        index += 1
    return index


def _depth(shapes: Mapping[str, Shape], transformer: str) -> int:
    return _count(shapes, lambda t: f"{transformer}.transformer_blocks.{t}.norm1.weight")

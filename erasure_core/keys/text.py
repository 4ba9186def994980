"""Text encoder names: transformers <-> OpenCLIP as in LDM checkpoints, with the slices of fused matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .layout import Shape

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
_OPEN = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_FUSED = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}


@dataclass(frozen=True)
class Slot:
    """Where a canonical weight lies in another naming: the tensor ``key``, or rows ``start:start+length`` of it.

    ``transposed``: the tensor holds the weight with rows and columns exchanged. ``swapped``: the tensor holds the
    second half of the rows before the first half.
    """

    key: str
    start: int | None = None
    length: int | None = None
    transposed: bool = False
    swapped: bool = False

    def taken(self, tensor: Tensor) -> Tensor:
        """The canonical weight out of the other naming's ``tensor``."""
        if self.start is not None and self.length is not None:
            tensor = tensor[self.start : self.start + self.length]
        tensor = tensor.T if self.transposed else tensor
        return tensor.roll(len(tensor) // 2, 0) if self.swapped else tensor

    def shape(self, whole: Shape) -> Shape:
        """Shape of the canonical weight if the other naming's tensor has the shape ``whole``."""
        rows = whole if self.length is None else (self.length, *whole[1:])
        return rows[::-1] if self.transposed else rows

    def given(self, rows: Tensor) -> Tensor:
        """Rows of a canonical weight, or of a factor that its rows come from, in the order of the other naming."""
        return rows.roll(len(rows) // 2, 0) if self.swapped else rows


@dataclass(frozen=True)
class TextLayout:
    """Numbers of one CLIP text encoder: ``root`` is ``text_encoder`` or ``text_encoder_2``.

    ``open_clip``: whether LDM checkpoints hold it in OpenCLIP's naming (SD2, SDXL's second). ``prefix``: in front of
    its names in such checkpoints; ``host``: in front of the transformers names in ComfyUI.
    """

    root: str
    width: int
    layers: int
    inner: int
    prefix: str
    host: str
    open_clip: bool = False
    projection: int | None = None
    vocabulary: int = 49408
    positions: int = 77

    def shapes(self) -> dict[str, Shape]:
        """Every weight and bias by transformers name (without the root), with its shape."""
        d = self.width
        result: dict[str, Shape] = {
            "text_model.embeddings.token_embedding.weight": (self.vocabulary, d),
            "text_model.embeddings.position_embedding.weight": (self.positions, d),
        }
        for index in range(self.layers):
            layer = f"text_model.encoder.layers.{index}"
            for norm in ("layer_norm1", "layer_norm2"):
                result |= {f"{layer}.{norm}.weight": (d,), f"{layer}.{norm}.bias": (d,)}
            for module in _LAYER:
                out = self.inner if module == "mlp.fc1" else d
                result[f"{layer}.{module}.weight"] = (out, self.inner if module == "mlp.fc2" else d)
                result[f"{layer}.{module}.bias"] = (out,)
        result |= {"text_model.final_layer_norm.weight": (d,), "text_model.final_layer_norm.bias": (d,)}
        if self.projection is not None:
            result["text_projection.weight"] = (self.projection, d)
        return result

    def ldm_slot(self, name: str) -> Slot:
        """Place of the weight ``name`` (no root) in an LDM checkpoint."""
        if not self.open_clip:
            return Slot(self.prefix + name)
        if name in _TOP:
            return Slot(self.prefix + _TOP[name], transposed=name == "text_projection.weight")
        index, _, rest = name.removeprefix("text_model.encoder.layers.").partition(".")
        module, _, kind = rest.rpartition(".")
        block = f"{self.prefix}transformer.resblocks.{index}."
        if module in _FUSED:
            return Slot(f"{block}attn.in_proj_{kind}", _FUSED[module] * self.width, self.width)
        return Slot(f"{block}{_OPEN[module]}.{kind}")


CLIP_L = TextLayout("text_encoder", 768, 12, 3072, prefix="cond_stage_model.transformer.", host="clip_l.transformer.")
CLIP_L_XL = TextLayout(
    "text_encoder", 768, 12, 3072, prefix="conditioner.embedders.0.transformer.", host="clip_l.transformer."
)
CLIP_L_FLUX = replace(CLIP_L, prefix="text_encoders.clip_l.transformer.")
CLIP_H = TextLayout(  # diffusers ships 23 of its 24 layers: the last one is never used
    "text_encoder", 1024, 23, 4096, prefix="cond_stage_model.model.", host="clip_h.transformer.", open_clip=True
)
CLIP_G = TextLayout(
    "text_encoder_2",
    1280,
    32,
    5120,
    prefix="conditioner.embedders.1.model.",
    host="clip_g.transformer.",
    open_clip=True,
    projection=1280,
)

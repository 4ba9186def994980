"""Names of whole weights in a file: U-Nets, checkpoints and text encoders of any layout -> canonical names.

No tensor is read here. A canonical weight may be rows of a fused matrix or a transposed one (OpenCLIP text encoders in
checkpoints), so every name leads to a :class:`Slot` of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..erasure import cross_attention_names
from ..keys import FAMILIES, Family, Slot
from .detect import CHECKPOINT, Kind, kind_of
from .files import Header
from .matching import Matched, canonical_name, match
from .parts import plain_key

Shape = tuple[int, ...]
_UNET_OF_CHECKPOINT = "model.diffusion_model."
_BARE_TEXT = re.compile(r"^(?:text_model|embeddings|encoder\.layers|final_layer_norm|text_projection)\b")
_DUPLICATE = re.compile(r"^(?:embeddings?|encoder\.layers|final_layer_norm)\.")  # AdvUnlearn saves its layers twice
_DROPPED = re.compile(r"_ip(?:\.|$)|\.position_ids$|^(?:embed|modifier_token\S*|logit_scale)$")
_TABLE = "token_embedding.weight"


@dataclass(frozen=True)
class Whole:
    """What a file of whole weights holds: its ``kind`` and ``family``, a slot by canonical name, the match it came
    from, the number of ``modules`` asked for, and how many tensors were left out because they are none of these."""

    kind: Kind
    family: Family
    keys: Mapping[str, Slot]
    found: Matched
    modules: int
    left_out: int

    @property
    def contents(self) -> str:
        """One line: how many keys, values and others."""
        sides = {side: len(cross_attention_names(self.keys, side)) for side in "kv"}
        text = sum(name.startswith("text_encoder") for name in self.keys)
        rest = len(self.keys) - sides["k"] - sides["v"] - text
        parts = [f"{sides['k']} keys and {sides['v']} values of the text"] if sides["k"] or sides["v"] else []
        parts += [f"{rest} other tensors"] if rest and parts else [f"{rest} tensors of the U-Net"] if rest else []
        return ", ".join([*parts, *([f"{text} tensors of the text encoder"] if text else [])])

    @property
    def complete(self) -> bool:
        """Whether the U-Net is there from its first layer to its norms, which no training of single layers saves."""
        return "unet.conv_in.weight" in self.keys and "unet.conv_norm_out.weight" in self.keys


def names_of(header: Header, families: Sequence[Family] = tuple(FAMILIES.values())) -> Whole:
    """The canonical names in a file. Raises WrongFamily or NothingMatched if nothing fits."""
    kind = kind_of(header)
    pieces = dict(_pieces(header, kind, families))
    modules: dict[str, dict[str, Tensor]] = {}
    for name, (_, shape) in pieces.items():
        module, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias"):
            part = "diff" if leaf == "weight" else "bias"
            modules.setdefault(module, {})[part] = torch.empty(shape, device="meta")
    found = match(modules, families, lambda module, rank: 1.0, header.name)
    slots = {name: pieces[dotted][0] for name, dotted in by_name(pieces, found.family).items()}
    left = len(header.shapes) - len({slot.key for slot, _ in pieces.values()})
    return Whole(kind, found.family, {name: slots[name] for name in found.deltas}, found, len(modules), left)


def by_name(keys: Iterable[str], family: Family) -> dict[str, str]:
    """Canonical name -> key, for the keys that have one."""
    result = {}
    for key in keys:
        module, _, kind = key.rpartition(".")
        name = canonical_name(module, family)
        if name is not None and kind in ("weight", "bias"):
            result[f"{name.removesuffix('weight')}{kind}"] = key
    return result


def slice_of(tensor: Tensor, slot: Slot) -> Tensor:
    """What ``slot`` means of the tensor under its key."""
    if slot.start is not None and slot.length is not None:
        tensor = tensor[slot.start : slot.start + slot.length]
    return tensor.T if slot.transposed else tensor


def _pieces(header: Header, kind: Kind, families: Sequence[Family]) -> Iterator[tuple[str, tuple[Slot, Shape]]]:
    """Dotted or kohya name that :func:`match` knows -> where it lies in the file and its shape there."""
    shapes = {plain_key(key): (key, shape) for key, shape in header.shapes.items()}
    twice = any(name.startswith("text_encoder.text_model.") for name in shapes)
    root = _text_root(shapes, families)
    fused = dict(_open_clip(shapes, families))
    taken = {slot.key for slot, _ in fused.values()}
    for name, (key, shape) in shapes.items():
        if key in taken or _DROPPED.search(name) or (twice and _DUPLICATE.match(name)):
            continue
        if kind is CHECKPOINT and not name.startswith(_UNET_OF_CHECKPOINT):
            continue
        if name.endswith(".set_weight"):
            name = name.removesuffix(".set_weight") + ".weight"
        if _BARE_TEXT.match(name):
            inner = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
            name = f"{root}.{inner}"
        yield name, _without_new_words(name, Slot(key), shape, families)
    yield from fused.items()


def _text_root(shapes: Mapping[str, tuple[str, Shape]], families: Sequence[Family]) -> str:
    """``text_encoder`` or ``text_encoder_2``, by the width of a file that does not say which one it holds."""
    norm = next((shape for name, (_, shape) in shapes.items() if name.endswith("final_layer_norm.weight")), (0,))
    layouts = [text for family in families for text in family.text]
    return next((text.root for text in layouts if text.width == norm[0]), "text_encoder")


def _open_clip(
    shapes: Mapping[str, tuple[str, Shape]], families: Sequence[Family]
) -> Iterator[tuple[str, tuple[Slot, Shape]]]:
    """Text encoders of checkpoints, and OpenCLIP ones by themselves: their names differ from every other file's."""
    for layout in dict.fromkeys(text for family in families for text in family.text):
        alone = [replace(layout, prefix="")] if layout.open_clip else []
        for text in (layout, *alone):
            for name, shape in text.shapes().items():
                slot = text.ldm_slot(name)
                key, stored = shapes.get(slot.key, ("", ()))
                wanted = (*((slot.length or 0) * 3,), *shape[1:]) if slot.start is not None else shape
                if key and stored == (wanted[::-1] if slot.transposed else wanted):
                    yield f"{text.root}.{name}", (replace(slot, key=key), shape)


def _without_new_words(name: str, slot: Slot, shape: Shape, families: Sequence[Family]) -> tuple[Slot, Shape]:
    """Of a vocabulary to which training has added words (Ablating Concepts), the words that every model has."""
    if name.endswith(_TABLE):
        usual = next((t.vocabulary for f in families for t in f.text if shape[1:] == (t.width,)), shape[0])
        if shape[0] > usual:
            return replace(slot, start=0, length=usual), (usual, *shape[1:])
    return slot, shape

"""Reader of Receler's erasers (arXiv 2311.17717): ``{block: {down.weight, down.bias, up.weight, up.bias}}``.

Blocks are named as diffusers names transformers, ``down_blocks.0.attentions.0``; the eraser stands behind the
cross-attention of the only block inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..bottleneck import Bottleneck
from ..erasure import Erasure
from ..errors import BadInput, NothingMatched, UnknownFormat, WrongFamily
from ..keys import Family
from .detect import FULL_ROWS, RECELER
from .files import Header
from .kohya import base_of
from .parts import plain_key

_PARTS = {"down.weight": "down", "down.bias": "down_bias", "up.weight": "up", "up.bias": "up_bias"}


def read_receler(header: Header, tensors: Mapping[str, Tensor], families: Sequence[Family]) -> Erasure:
    """The erasers of a file for the family in which most have a place. Raises WrongFamily or NothingMatched."""
    places: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        block, _, leaf = plain_key(key).removeprefix("unet.").rpartition(".")
        block, _, part = block.rpartition(".")
        places.setdefault(block, {})[_PARTS[f"{part}.{leaf}"]] = tensor
    erasers = [_eraser(block, parts, header.name) for block, parts in places.items()]
    widths = [{e.name: _width(family, e) for e in erasers} for family in families]
    fitting = [sum(own[e.name] == e.width for e in erasers) for own in widths]
    best = max(range(len(families)), key=fitting.__getitem__)
    family, own = families[best], widths[best]
    lost = [e.name for e in erasers if own[e.name] is None]
    wrong = next((e for e in erasers if own[e.name] not in (None, e.width)), None)
    if len(lost) == len(erasers):
        raise NothingMatched(
            f"None of the {len(erasers)} erasers of {header.name} has a place in "
            f"{' or '.join(f.name for f in families)} (first: {lost[0]}). It was made for another kind of model."
        )
    if wrong is not None:
        raise WrongFamily(
            f"{header.name} was made for another model: its eraser behind {wrong.name} is {wrong.width} wide, where "
            f"{family.name} has {own[wrong.name]}. Load it together with the model it was made for."
        )
    also = [f.name for f, n in zip(families, fitting, strict=True) if f is not family and n == fitting[best]]
    notes = {}
    if lost:
        notes["unmatched"] = (
            f"{len(lost)} of {len(erasers)} erasers have no place in this family: {', '.join(lost[:3])}"
        )
    if also:
        notes["family"] = f"read as {family.name}; the erasers fit {' and '.join(also)} as well"
    return Erasure(
        bottlenecks={e.name: e for e in erasers if own[e.name] is not None},
        recipe={"method": "receler", "format": RECELER.name, "concepts": [], "options": {}},
        base=base_of(family),
        gate=dict(FULL_ROWS),
        diagnostics=notes,
    )


def _eraser(block: str, parts: Mapping[str, Tensor], file: str) -> Bottleneck:
    name = f"unet.{block}.transformer_blocks.0.attn2"
    try:
        return Bottleneck(name, **parts)
    except (TypeError, BadInput) as error:
        raise UnknownFormat(
            f"{file} is damaged: the eraser of {block} is not whole, or its parts do not belong together."
        ) from error


def _width(family: Family, eraser: Bottleneck) -> int | None:
    shape = family.shapes().get(f"{eraser.name}.to_out.0.weight")
    return None if shape is None else shape[0]

"""The native file: maps as two thin factors, weight deltas under kohya keys, everything else as metadata.

``map.<space>.down`` Y [r, d], ``map.<space>.up`` D [d, r], ``map.<space>.bias`` [d], all fp32; further factors of a
product, in the order they act, as ``map.<space>.1.down`` and so on. Because deltas use kohya keys, the native file of a
trained erasure is at the same time a LoRA that any host loads. ``bottleneck.<attention>.down`` [r, c], ``.down_bias``
[r], ``.up`` [c, r], ``.up_bias`` [c] are small networks behind a cross-attention, which no LoRA can hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..bottleneck import Bottleneck
from ..erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from ..errors import BadInput, UnknownFormat
from ..keys import kohya_stem, name_of_stem
from .files import Header
from .matching import bias_name, implied_shape
from .metadata import describe_erasure, family_name, legacy_trio, read_provenance
from .parts import gather
from .statistics import PREFIX, read_statistics, statistics_tensors

_MAP_KEY = re.compile(r"map\.([A-Za-z0-9_-]+)(?:\.(\d+))?\.(down|up|bias)")
_BOTTLENECK = "bottleneck."
_BOTTLENECK_KEY = re.compile(r"bottleneck\.(unet\..+\.attn2)\.(down|down_bias|up|up_bias)")
_KEPT = (torch.float32, torch.float16, torch.bfloat16)


def native_tensors(erasure: Erasure, statistics: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the native file of ``erasure``; ``statistics``: with the rows it was solved from."""
    tensors: dict[str, Tensor] = {}
    for space, emap in erasure.maps.items():
        for index, factor in enumerate(emap.factors):
            stem = f"map.{space}.{index}" if index else f"map.{space}"
            tensors |= {f"{stem}.down": factor.down.float(), f"{stem}.up": factor.up.float()}
            if factor.bias is not None:
                tensors[f"{stem}.bias"] = factor.bias.float()
    family = family_name(erasure)
    for delta in erasure.weight_deltas.values():
        tensors |= delta_tensors(delta, family)
    for name, eraser in erasure.bottlenecks.items():
        parts = {"down": eraser.down, "down_bias": eraser.down_bias, "up": eraser.up, "up_bias": eraser.up_bias}
        tensors |= {f"{_BOTTLENECK}{name}.{part}": kept(tensor) for part, tensor in parts.items()}
    if statistics:
        tensors |= statistics_tensors(erasure.statistics)
    return tensors, describe_erasure(erasure) | legacy_trio(erasure)


def delta_tensors(delta: WeightDelta, family: str) -> dict[str, Tensor]:
    """Kohya entries of one delta, in its own precision; loading them gives the same delta back.

    The scale goes into ``.alpha`` where fp32 holds it exactly, else into the tensors.
    """
    stem = stem_of(delta.name, family)
    if delta.diff is not None:
        diff = kept(delta.diff if delta.scale == 1 else delta.diff.float() * delta.scale)
        return {f"{stem}.{'diff_b' if delta.name.endswith('.bias') else 'diff'}": diff}
    assert delta.down is not None and delta.up is not None
    down, up, rank = delta.down, delta.up, delta.down.shape[0]
    alpha = torch.tensor(delta.scale * rank, dtype=torch.float32)
    if rank and float(alpha) / rank != delta.scale:
        up, alpha = up.float() * delta.scale, torch.tensor(float(rank))
    return {f"{stem}.lora_down.weight": kept(down), f"{stem}.lora_up.weight": kept(up), f"{stem}.alpha": alpha}


def stem_of(name: str, family: str) -> str:
    """Kohya stem of a canonical name, checked to lead back to it."""
    stem = kohya_stem(name, family)
    weight = name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name
    if name_of_stem(stem) != weight:
        raise BadInput(f"{name} is no weight of a model that Membrane knows, so no file can name it.")
    return stem


def kept(tensor: Tensor) -> Tensor:
    """The tensor in a precision that files hold; others become fp32."""
    return tensor if tensor.dtype in _KEPT else tensor.float()


def read_native(header: Header, tensors: Mapping[str, Tensor]) -> Erasure:
    """The erasure in a file of ours (either form)."""
    fields = read_provenance(header.metadata, header.name)
    maps = _read_maps({key: t for key, t in tensors.items() if key.startswith("map.")}, header.name)
    rows = read_statistics({key: t for key, t in tensors.items() if key.startswith(PREFIX)}, header.name)
    rest = {key: t for key, t in tensors.items() if not key.startswith(("map.", PREFIX, _BOTTLENECK))}
    deltas = _read_deltas(rest, header.name)
    behind = {key: t for key, t in tensors.items() if key.startswith(_BOTTLENECK)}
    bottlenecks = _read_bottlenecks(behind, header.name)
    if not maps and not deltas and not bottlenecks:
        raise UnknownFormat(f"{header.name} says it is a Membrane file but holds no erasure. Save it again.")
    return Erasure(maps=maps, weight_deltas=deltas, bottlenecks=bottlenecks, statistics=rows, **fields)


def _read_maps(tensors: Mapping[str, Tensor], file: str) -> dict[str, EmbeddingMap]:
    spaces: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        match = _MAP_KEY.fullmatch(key)
        if match is None:
            raise UnknownFormat(f"{file} is damaged: {key} is no part of a map. Save or download it again.")
        space, index, part = match.groups()
        spaces.setdefault(space, {}).setdefault(int(index or 0), {})[part] = tensor
    return {space: EmbeddingMap(space, _factors(space, parts, file)) for space, parts in sorted(spaces.items())}


def _factors(space: str, parts: Mapping[int, Mapping[str, Tensor]], file: str) -> tuple[MapFactor, ...]:
    if sorted(parts) != list(range(len(parts))):
        raise UnknownFormat(f"{file} is damaged: a factor of the map of {space} is missing. Save or download it again.")
    result = []
    for index in range(len(parts)):
        down, up, bias = (parts[index].get(key) for key in ("down", "up", "bias"))
        whole = down is not None and up is not None and down.ndim == 2 and up.shape == down.T.shape
        if not whole or down is None or up is None or (bias is not None and bias.shape != up.shape[:1]):
            raise UnknownFormat(f"{file} is damaged: the parts of the map of {space} do not belong together.")
        result.append(MapFactor(down.float(), up.float(), None if bias is None else bias.float()))
    if len({factor.down.shape[1] for factor in result}) > 1:
        raise UnknownFormat(f"{file} is damaged: the parts of the map of {space} do not belong together.")
    return tuple(result)


def _read_deltas(tensors: Mapping[str, Tensor], file: str) -> dict[str, WeightDelta]:
    modules, strange = gather(tensors, file)
    deltas = {}
    for stem, parts in modules.items():
        name = name_of_stem(stem)
        if name is None or implied_shape(parts) is None:
            strange.append(stem)
            continue
        if "down" in parts:
            rank = parts["down"].shape[0]
            scale = float(parts["alpha"]) / rank if "alpha" in parts and rank else 1.0
            deltas[name] = WeightDelta(name, down=parts["down"], up=parts["up"], scale=scale)
        elif "diff" in parts:
            deltas[name] = WeightDelta(name, diff=parts["diff"])
        if "bias" in parts:
            deltas[bias_name(name)] = WeightDelta(bias_name(name), diff=parts["bias"])
    if strange:
        raise UnknownFormat(
            f"{file} holds {len(strange)} entries that no Membrane file has (first: {strange[0]}). "
            "It was changed by another program or is damaged."
        )
    return deltas


def _read_bottlenecks(tensors: Mapping[str, Tensor], file: str) -> dict[str, Bottleneck]:
    places: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _BOTTLENECK_KEY.fullmatch(key)
        if match is None:
            raise UnknownFormat(f"{file} is damaged: {key} is no part of an eraser. Save or download it again.")
        places.setdefault(match.group(1), {})[match.group(2)] = tensor
    try:
        return {name: Bottleneck(name, **parts) for name, parts in sorted(places.items())}
    except (TypeError, BadInput) as error:
        raise UnknownFormat(f"{file} is damaged: the parts of its erasers do not belong together.") from error

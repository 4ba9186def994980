"""Reader of dotted LoRA files: PEFT (``lora_A`` / ``lora_B``), diffusers of every age, MACE's attention processors.

The trap in these names: attention modules are written with ``.processor.`` by old releases and without it by new ones,
and a loader that knows one form loads half a file without a word. Both are read here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..erasure import Erasure
from ..errors import NothingMatched
from ..keys import Family
from .detect import ERASE_ANYTHING, Kind
from .files import Header
from .kohya import base_of, without_adapters_of_images
from .matching import match
from .parts import gather


def read_peft(header: Header, tensors: Mapping[str, Tensor], families: Sequence[Family], kind: Kind) -> Erasure:
    """Weight deltas of a file with dotted module names.

    The scale is alpha / rank from an ``.alpha`` entry, else from the adapter settings stored in the metadata or in
    ``adapter_config.json`` beside the file, else 1.
    """
    modules, strange = gather(tensors, header.name)
    modules, dropped = without_adapters_of_images(modules)
    if not modules:
        raise NothingMatched(f"{header.name} holds no LoRA entries that Membrane knows.")
    settings = _settings(header)
    found = match(modules, families, lambda module, rank: _scale(settings, module, rank), header.name)
    notes: dict[str, Any] = dict(found.notes(len(modules)))
    if strange or dropped:
        notes["ignored"] = f"{len(strange) + dropped} tensors that belong to no LoRA entry"
    return Erasure(
        weight_deltas=found.deltas,
        recipe={
            "method": "eraseanything" if kind is ERASE_ANYTHING else "lora",
            "format": kind.name,
            "concepts": [],
            "options": {},
        },
        base=base_of(found.family),
        diagnostics=notes,
    )


def _settings(header: Header) -> dict[str, Mapping[str, Any]]:
    """Adapter settings by root (``""`` for all): diffusers packs them as ``unet.r``, PEFT into a file beside it."""
    packed = _table(header.metadata.get("lora_adapter_metadata", ""))
    beside = header.path.with_name("adapter_config.json")
    if not packed and any(key.startswith("base_model.model.") for key in header.shapes):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            packed = _table(beside.read_text(encoding="utf-8"))
    result: dict[str, dict[str, Any]] = {}
    for key, value in packed.items():
        root, _, field = key.rpartition(".")
        result.setdefault(root, {})[field] = value
    return dict(result)


def _table(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _scale(settings: Mapping[str, Mapping[str, Any]], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732); 1 where nothing is stored."""
    root = module.partition(".")[0]
    own = settings.get(root) or settings.get("") or {}
    alpha = own.get("lora_alpha")
    for pattern, value in (own.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(?:.*\.)?(?:{re.escape(pattern)})", module):
            alpha = value
    if not isinstance(alpha, int | float) or not rank:
        return 1.0
    return float(alpha) / (rank**0.5 if own.get("use_rslora") else rank)

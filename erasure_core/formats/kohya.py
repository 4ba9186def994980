"""Reader of kohya-style files: LoRA and LoCon, SPM membranes (arXiv 2312.16145), ACE (arXiv 2501.01633), sliders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..erasure import Erasure
from ..errors import NothingMatched
from ..keys import Family
from .files import Header
from .flux import flux_method, flux_notes
from .matching import match
from .parts import gather

TRIO = {"prompts", "rank", "alpha"}


def read_kohya(header: Header, tensors: Mapping[str, Tensor], families: Sequence[Family]) -> Erasure:
    """Weight deltas of a file with kohya stems; each module scaled by alpha / rank, or 1 where no alpha is stored."""
    modules, strange = gather(tensors, header.name)
    modules, dropped = without_adapters_of_images(modules)
    if not modules:
        raise NothingMatched(f"{header.name} holds no LoRA entries that Membrane knows.")
    found = match(modules, families, lambda module, rank: 1.0, header.name)
    notes: dict[str, Any] = dict(found.notes(len(modules)))
    if strange or dropped:
        notes["ignored"] = f"{len(strange) + dropped} tensors that belong to no LoRA entry"
    ranks = {delta.rank for delta in found.deltas.values() if delta.rank}
    phrases = prompts_of(header)
    method = flux_method(modules) or _method(header, modules, ranks)
    notes |= flux_notes(method)
    if method == "spm" and not phrases:
        notes["concept"] = "probably an SPM membrane whose concept was not stored; name the concept to gate it"
    return Erasure(
        weight_deltas=found.deltas,
        recipe={
            "method": method,
            "concepts": [{"target": p, "anchor": "", "aliases": [], "kind": "object", "weight": 1.0} for p in phrases],
            "options": {key: header.metadata[key] for key in ("rank", "alpha") if key in header.metadata},
        },
        base=base_of(found.family),
        gate={"phrases": phrases, "neighbours": []} if phrases else {},
        diagnostics=notes,
    )


def base_of(family: Family) -> dict[str, Any]:
    """What is known of the model a third-party file was made on."""
    return {"family": family.name, "widths": {family.spaces[0]: family.context}}


def without_adapters_of_images(modules: dict[str, dict[str, Tensor]]) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Modules without those for image prompts (``..._ip``), which Co-Erasing's files carry; and how many tensors."""
    kept = {name: parts for name, parts in modules.items() if not name.endswith("_ip")}
    return kept, sum(len(parts) for name, parts in modules.items() if name not in kept)


def prompts_of(header: Header) -> list[str]:
    """Concepts named in the metadata of SPM and ACE files."""
    if not header.metadata.keys() >= TRIO:
        return []
    return [phrase.strip() for phrase in header.metadata["prompts"].split(",") if phrase.strip()]


def _method(header: Header, modules: Mapping[str, Any], ranks: set[int]) -> str:
    """``spm``, ``ace`` or ``lora``: an SPM file has rank one and touches transformers of the U-Net only."""
    if header.metadata.keys() >= TRIO:
        return "spm" if ranks <= {1} else "ace"
    stripped = ranks == {1} and all(m.startswith("lora_unet_") and "_attentions_" in m for m in modules)
    return "spm" if stripped and not any(key.startswith("ss_") for key in header.metadata) else "lora"

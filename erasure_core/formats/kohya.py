"""Reader of kohya-style files: LoRA and LoCon, SPM membranes (arXiv 2312.16145), ACE (arXiv 2501.01633), sliders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..erasure import Erasure
from ..errors import NothingMatched
from ..keys import Family
from .detect import ACE, FLUX_SLIDER, FULL_ROWS, SLIDER, SPM, SPM_STRIPPED, TRIO, Kind
from .files import Header
from .matching import match
from .parts import gather

_METHODS = {
    SPM.name: "spm",
    SPM_STRIPPED.name: "spm",
    ACE.name: "ace",
    SLIDER.name: "slider",
    FLUX_SLIDER.name: "slider",
}
_UNCONDITIONAL = (ACE, SLIDER, FLUX_SLIDER)  # trained to act without a prompt, too
_RANDOM_START = (
    "sliders for Flux begin at random matrices and not at zero, so a part of the change has nothing to do with the "
    "concept; a low strength shows less of it"
)


def read_kohya(header: Header, tensors: Mapping[str, Tensor], families: Sequence[Family], kind: Kind) -> Erasure:
    """Weight deltas of a file with kohya stems; each module scaled by alpha / rank, or 1 where no alpha is stored."""
    modules, strange = gather(tensors, header.name)
    modules, dropped = without_adapters_of_images(modules)
    if not modules:
        raise NothingMatched(f"{header.name} holds no LoRA entries that Membrane knows.")
    found = match(modules, families, lambda module, rank: 1.0, header.name)
    notes: dict[str, Any] = dict(found.notes(len(modules)))
    if strange or dropped:
        notes["ignored"] = f"{len(strange) + dropped} tensors that belong to no LoRA entry"
    phrases = prompts_of(header)
    method = _METHODS.get(kind.name, "lora")
    if kind is FLUX_SLIDER:
        notes["start"] = _RANDOM_START
    if method == "spm" and not phrases:
        notes["concept"] = "probably SPM, concept unknown: name the concept (concept=...) to gate it by its words"
    rows = FULL_ROWS if kind in _UNCONDITIONAL else {"rows": "positive"} if method == "spm" else {}
    return Erasure(
        weight_deltas=found.deltas,
        recipe={
            "method": method,
            "format": kind.name,
            "concepts": [{"target": p, "anchor": "", "aliases": [], "kind": "object", "weight": 1.0} for p in phrases],
            "options": {key: header.metadata[key] for key in ("rank", "alpha") if key in header.metadata},
        },
        base=base_of(found.family),
        gate={**({"phrases": phrases, "neighbours": []} if phrases else {}), **rows},
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
    """Concepts named in the metadata of SPM and ACE files: separated by commas, or a JSON list."""
    if not header.metadata.keys() >= TRIO:
        return []
    text = header.metadata["prompts"].strip()
    try:
        listed = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        listed = None
    phrases = listed if isinstance(listed, list) else text.split(",")
    return [phrase for phrase in (" ".join(str(phrase).split()) for phrase in phrases) if phrase]

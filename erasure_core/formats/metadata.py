"""The text inside our files: provenance as compact JSON, and what LoRA managers and web UIs look for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..erasure import Erasure
from ..errors import UnknownFormat

VERSION = "1"
_JSON = ("recipe", "base", "gate", "diagnostics")
_ARCHITECTURE = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
    "flux": "flux-1-dev",
}
_BASE_VERSION = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
_SPACE_FAMILY = {"clip_l": "sd1", "clip_h": "sd2", "sdxl_lg": "sdxl", "sdxl_pooled": "sdxl", "t5": "flux"}


def describe_erasure(erasure: Erasure) -> dict[str, str]:
    """``membrane.*`` and ``modelspec.*`` entries; they hold no date, so equal erasures give equal files."""
    result = {f"membrane.{key}": _compact(getattr(erasure, key)) for key in _JSON}
    result |= {"membrane.format": VERSION, "membrane.applies": erasure.applies}
    kind = "lora" if erasure.weight_deltas else "membrane"
    return result | {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{_ARCHITECTURE[family_name(erasure)]}/{kind}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title(erasure),
        "modelspec.description": (
            f"Membrane concept erasure ({erasure.recipe.get('method', 'unknown method')}). "
            "Needs no trigger word; strength 1 erases fully, 0 does nothing."
        ),
    }


def legacy_trio(erasure: Erasure) -> dict[str, str]:
    """``prompts``, ``rank``, ``alpha`` as SPM's scripts (arXiv 2312.16145) read them; only for files with deltas."""
    if not erasure.weight_deltas:
        return {}
    targets = [str(concept["target"]) for concept in concepts_of(erasure)] or list(erasure.gate.get("phrases", []))
    if any("," in target for target in targets):
        targets = targets[:1]  # the field is split at commas
    ranks = {delta.rank for delta in erasure.weight_deltas.values() if delta.rank is not None}
    scales = {delta.scale for delta in erasure.weight_deltas.values() if delta.rank is not None}
    rank = max(ranks, default=1)
    alpha = rank * scales.pop() if len(scales) == 1 else float(rank)
    return {"prompts": ",".join(targets), "rank": str(rank), "alpha": str(float(alpha))}


def web_ui(erasure: Erasure, rank: int) -> dict[str, str]:
    """``ss_*`` entries by which LoRA managers and web UIs file a LoRA under its family."""
    family = family_name(erasure)
    return {
        "ss_base_model_version": _BASE_VERSION[family],
        "ss_v2": str(family == "sd2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_output_name": title(erasure),
    }


def title(erasure: Erasure) -> str:
    """Short name for lists: the erased concepts."""
    targets = [str(concept["target"]) for concept in concepts_of(erasure)] or list(erasure.gate.get("phrases", []))
    shown = ", ".join(targets[:3]) + (f" and {len(targets) - 3} more" if len(targets) > 3 else "")
    return f"without {shown}" if shown else "concept erasure"


def concepts_of(erasure: Erasure) -> list[Mapping[str, Any]]:
    """The recipe's concepts; empty for files that do not tell."""
    return [c for c in erasure.recipe.get("concepts", ()) if isinstance(c, Mapping) and "target" in c]


def family_name(erasure: Erasure) -> str:
    """Family the erasure says it is for, else the one its text spaces and weight names point to."""
    said = erasure.base.get("family")
    if said in _ARCHITECTURE:
        return str(said)
    for space in erasure.maps:
        if space in _SPACE_FAMILY:
            return _SPACE_FAMILY[space]
    if any(name.startswith("transformer.") for name in erasure.weight_deltas):
        return "flux"
    widths = {delta.shape[1] for name, delta in erasure.weight_deltas.items() if ".attn2.to_k." in name}
    if 2048 in widths or any(name.startswith(("text_encoder_2.", "unet.add_emb")) for name in erasure.weight_deltas):
        return "sdxl"
    return "sd2" if 1024 in widths else "sd1"


def read_provenance(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Fields of an :class:`Erasure` from ``membrane.*`` entries; raises :class:`UnknownFormat` if unreadable."""
    version = metadata.get("membrane.format", "")
    if version != VERSION:
        raise UnknownFormat(
            f"{name} is a Membrane file of version {version or 'unknown'}; this Membrane reads version {VERSION}. "
            "Update Membrane to open it."
        )
    fields: dict[str, Any] = {"applies": metadata.get("membrane.applies", "kv")}
    for key in _JSON:
        try:
            fields[key] = json.loads(metadata.get(f"membrane.{key}", "{}"))
        except (ValueError, RecursionError) as error:
            raise UnknownFormat(
                f"{name} is damaged: its entry membrane.{key} cannot be read. Save it again."
            ) from error
        if not isinstance(fields[key], dict):
            raise UnknownFormat(f"{name} is damaged: its entry membrane.{key} is not a table. Save it again.")
    return fields


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """Mappings of other types and tuples' kin as the JSON they mean."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a file's description")

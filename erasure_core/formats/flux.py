"""What published LoRA files for Flux are, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

_ERASE_ANYTHING = re.compile(r"transformer\.transformer_blocks\.\d+\.attn\.add_[qk]_proj")
_SLIDER = re.compile(r"lora_unet_(?:single_)?transformer_blocks_\d+_")


def flux_method(modules: Collection[str]) -> str | None:
    """``eraseanything`` (arXiv 2412.20413), ``slider`` (Concept Sliders, arXiv 2311.12092), None for any other file.

    EraseAnything adapts queries and keys of the text in every double block and nothing else. Only the sliders' trainer
    puts diffusers names of Flux after ``lora_unet_``, where hosts do not look for them.
    """
    if modules and all(_ERASE_ANYTHING.fullmatch(module) for module in modules) and len(modules) % 2 == 0:
        return "eraseanything"
    return "slider" if any(_SLIDER.match(module) for module in modules) else None


def flux_notes(method: str | None) -> dict[str, Any]:
    """What the user should know of such a file."""
    if method != "slider":
        return {}
    return {
        "start": "sliders for Flux begin at random matrices and not at zero, so a part of the change has nothing to do "
        "with the concept; a low strength shows less of it"
    }

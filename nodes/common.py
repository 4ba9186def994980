"""Inputs and words that several nodes share, so that they look and mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OUTPUTS = (
    "The model without the concepts, for any sampler. The model that came in is unchanged.",
    "The text encoder, its vectors unchanged: it notes the words of each prompt, so that gates can read them.",
    "What was done, as text: layers, rank, size of the change, drift, warnings.",
)


def model_input(families: str = "Stable Diffusion 1, 2 or XL, Flux") -> tuple[str, dict[str, Any]]:
    """MODEL of one of ``families``."""
    return ("MODEL", {"tooltip": f"The model to change, after its LoRAs. {families}, or the demo model."})


def clip_input() -> tuple[str, dict[str, Any]]:
    """CLIP."""
    tip = "The text encoder of the same checkpoint, after its LoRAs and CLIP Set Last Layer."
    return ("CLIP", {"tooltip": tip})


def strength_input() -> tuple[str, dict[str, Any]]:
    """Strength of a membrane."""
    return (
        "FLOAT",
        {
            "default": 1.0,
            "min": -10.0,
            "max": 10.0,
            "step": 0.05,
            "round": 0.001,
            "tooltip": "How strongly it acts, -10 to 10: 0 = off, to the last bit; 1 = as solved; more exaggerates; "
            "below 0 draws the concept into other prompts.",
        },
    )


def amount_input(tip: str) -> tuple[str, dict[str, Any]]:
    """How much of a change or a push is made."""
    return ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05, "round": 0.001, "tooltip": tip})


def options_input(tip: str) -> tuple[str, dict[str, Any]]:
    """Settings of the chosen method, on one line."""
    return ("STRING", {"default": "", "tooltip": tip})


def part_input(default: float, tip: str) -> tuple[str, dict[str, Any]]:
    """A moment of the sampling."""
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "round": 0.001, "tooltip": tip})


def refusal(read: Callable[..., Any], *given: Any) -> bool | str:
    """What the host wants of VALIDATE_INPUTS: True, or why ``read(*given)`` refuses; linked inputs come as None."""
    from ..erasure_core.errors import MembraneError

    if any(value is None for value in given):
        return True
    try:
        read(*given)
    except MembraneError as error:
        return str(error)
    return True

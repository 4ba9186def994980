"""Attention Negative: keep something out of pictures inside cross-attention, at any guidance and at no extra cost."""

from __future__ import annotations

from typing import Any

from .common import amount_input, model_input, options_input, refusal

METHODS = ["vsf", "nag", "adavd"]


class AttentionNegative:
    """MODEL and a text -> a MODEL that avoids it, also at CFG 1."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "A negative that works at CFG 1 and on distilled models, and adds no evaluation: it acts inside "
        "cross-attention. Write what to avoid and connect CLIP, or connect a negative conditioning."
    )
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "receipt")
    OUTPUT_TOOLTIPS = (
        "The model with the negative in its attention, for any sampler. The model that came in is unchanged.",
        "What was done, as text: method, what it avoids, layers, when it acts, warnings.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to avoid, how, and when."""
        return {
            "required": {
                "model": model_input("Stable Diffusion 1, 2 or XL"),
                "method": (
                    METHODS,
                    {
                        "default": "vsf",
                        "tooltip": "vsf subtracts what the words would bring, nag pushes away and limits how far, "
                        "adavd takes the words' direction out of the prompt. The help page compares them.",
                    },
                ),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "What to avoid, one phrase a line; needs CLIP. Empty = only the connected negative.",
                    },
                ),
                "strength": amount_input(
                    "How much of the method's change is made, 0 to 10: 0 = off, to the last bit; 1 = as published.",
                ),
                "start": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "round": 0.001,
                        "tooltip": "From when on it acts, as a part of the run, 0 to 1: 0 = from the first step.",
                    },
                ),
                "end": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "round": 0.001,
                        "tooltip": "Until when it acts, 0 to 1: 1 = to the last step; not after start = off.",
                    },
                ),
                "options": options_input(
                    "Settings of the method, as in: alpha=3.5, beta=0.1. Empty = our defaults. Also "
                    "gate, others, rows and ramp. The help page has the table; a wrong one is named.",
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "Reads the text. The text encoder of the same checkpoint."}),
                "negative": ("CONDITIONING", {"tooltip": "What to avoid, encoded already; all its entries count."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, method: str | None, options: str | None) -> bool | str:
        """A message if the options cannot be read or the method has no such setting."""
        from .steering import read

        return refusal(read, method, options)

    def run(
        self,
        model: Any,
        method: str,
        text: str,
        strength: float,
        start: float,
        end: float,
        options: str,
        clip: Any = None,
        negative: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Put the negative into the attention of a clone."""
        from .steering import steer

        made = steer(model, method, text, strength, (start, end), options, clip, negative, unique_id)
        panel = {
            "kind": "file",
            "entries": [{"name": "Attention Negative", "lines": made.lines, "notes": made.notes}],
        }
        return {"ui": {"membrane": [panel]}, "result": (made.model, made.receipt)}

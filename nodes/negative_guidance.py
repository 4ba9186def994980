"""Negative Guidance: push pictures away from concepts at each step of the sampling."""

from __future__ import annotations

from typing import Any

from .common import amount_input, clip_input, options_input, part_input

METHODS = ["negation", "negative", "sld", "sega", "perp_neg", "dng", "all_but_one"]
WINDOWS = ["surgical", "balanced", "robust", "whole"]


class NegativeGuidance:
    """MODEL, CLIP and concepts -> a MODEL that is guided away from them by any sampler."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Guides the sampling away from concepts without changing a weight: each is one more text in the batch of the "
        "steps it acts in. Several of these nodes may follow each other; they share one batch."
    )
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "receipt")
    OUTPUT_TOOLTIPS = (
        "The model with the guidance in it, for any sampler. The model that came in is unchanged.",
        "What was done, as text: method, concepts, when it acts, what happens at cfg 1.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to avoid, how, how strongly and when."""
        return {
            "required": {
                "model": (
                    "MODEL",
                    {"tooltip": "The model to guide, after its LoRAs: any that is drawn with a prompt and a negative."},
                ),
                "clip": clip_input(),
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "circle",
                        "tooltip": "What to avoid, one concept per line, as in Concepts: target | other name -> anchor "
                        "@ weight. Empty = only the connected concepts.",
                    },
                ),
                "method": (
                    METHODS,
                    {
                        "default": "negation",
                        "tooltip": "negation is surest, negative is a negative prompt in a window, sld acts where the "
                        "picture leans to the concept. The help page compares all.",
                    },
                ),
                "strength": amount_input(
                    "Multiplies the whole push, 0 to 10: 0 = off, to the last bit; 1 = as published.",
                ),
                "mode": (
                    WINDOWS,
                    {
                        "default": "balanced",
                        "tooltip": "When it acts, as part of the run: surgical 0.17 to 0.5 keeps the layout, balanced "
                        "0 to 0.5, robust 0 to 0.3 removes surest for its cost, whole 0 to 1.",
                    },
                ),
                "start": part_input(0.0, "Cuts the mode's window, 0 to 1: nothing is done before this part."),
                "end": part_input(1.0, "Cuts the mode's window, 0 to 1: nothing after it; not after start = off."),
                "options": options_input(
                    "Settings of the method, as in: w_n=5, limit=1. Empty = as published. Also "
                    "sum_limit, for all these nodes together. The help page has the table; a wrong one is named.",
                ),
            },
            "optional": {"concepts": ("CONCEPTS", {"tooltip": "More to avoid, from Concepts. Not connected = none."})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text: str | None, method: str | None, options: str | None) -> bool | str:
        """A message if the text or the options cannot be read; linked ones are read when they arrive."""
        from ..erasure_core.concepts import check_text
        from ..erasure_core.errors import MembraneError
        from .guided import build

        try:
            if text is not None:
                check_text(text)
            if method is not None and options is not None:
                build(method, None, 1.0, "whole", (0.0, 1.0), options)
        except MembraneError as error:
            return str(error)
        return True

    def run(
        self,
        model: Any,
        clip: Any,
        text: str,
        method: str,
        strength: float,
        mode: str,
        start: float,
        end: float,
        options: str,
        concepts: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Put the term on a clone."""
        from .guided import guide

        made = guide(model, clip, text, concepts, method, strength, mode, (start, end), options, unique_id)
        entry = {"name": "Negative Guidance", "lines": made.lines, "notes": made.notes}
        return {"ui": {"membrane": [{"kind": "file", "entries": [entry]}]}, "result": (made.model, made.receipt)}


class GuidancePlot:
    """MODEL and the LATENT drawn with it -> a picture of what guidance did at each step."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Draws what each Negative Guidance node before a sampler did at each step: share of the picture it acted on, "
        "gate, and size of its push. The latent makes it wait for the sampler and passes through."
    )
    RETURN_TYPES = ("IMAGE", "LATENT")
    RETURN_NAMES = ("plot", "latent")
    OUTPUT_TOOLTIPS = ("One plot for each Negative Guidance node, below each other.", "The latent as it came in.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model the sampler used, and what it drew."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the sampler used, from Negative Guidance."}),
                "latent": (
                    "LATENT",
                    {"tooltip": "What the sampler drew with it; says which run is shown."},
                ),
            },
        }

    def run(self, model: Any, latent: Any) -> tuple[Any, Any]:
        """The plot of the run that gave the latent."""
        from .plot import plots

        return plots(model, latent["samples"]), latent

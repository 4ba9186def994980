"""Train: learn an erasure for the model in the graph, with progress, previews, and a cancel that loses nothing."""

from __future__ import annotations

from typing import Any

from .common import OUTPUTS, clip_input, model_input, options_input, refusal


class Train:
    """MODEL, CLIP, CONCEPTS -> the same without the concepts, learned in minutes to hours."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Trains the model not to draw the concepts: slower than Erase, for what Erase does not reach. Writes a file in "
        "models/membranes. Cancel keeps what was learned, and queueing again goes on from there. The help page says "
        "which method, how long, and what it protects."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "MEMBRANE", "IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("model", "clip", "membrane", "previews", "loss_curve", "receipt")
    OUTPUT_TOOLTIPS = (
        *OUTPUTS[:2],
        "The trained erasure by itself, for Apply Membranes. It is in the file already.",
        "The concept, and beside it what must stay: before, on the way, and after, always from the same noise.",
        "How far the concept is from gone (erasing) and what must stay from unchanged (keeping), step by step.",
        "How it was trained, the name of the file, and what was changed.",
    )
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to train, how, and how long."""
        from ..erasure_core.training import METHODS, PRESETS

        return {
            "required": {
                "model": model_input("Stable Diffusion 1, 2 or XL"),
                "clip": clip_input(),
                "concepts": ("CONCEPTS", {"tooltip": "What to erase and what must stay, from Concepts."}),
                "method": (
                    list(METHODS),
                    {"default": "spm", "tooltip": "What is learned. spm protects best; the help page compares them."},
                ),
                "preset": (
                    list(PRESETS),
                    {
                        "default": "balanced",
                        "tooltip": "How long: fast = two fifths of the method's usual steps, balanced = all of them, "
                        "thorough = three times as many.",
                    },
                ),
                "steps": _whole(0, 200_000, "Steps, in place of the preset's. 0 = as the preset says."),
                "rank": _whole(0, 1024, "Rank of the LoRA: how much it can change. 0 = the method's own."),
                "training_seed": _whole(
                    0,
                    2**53,
                    "Of everything random. The same seed gives the same result; it stays as it is when you "
                    "queue again, so that a cancelled training can go on.",
                ),
                "name": (
                    "STRING",
                    {
                        "default": "trained",
                        "tooltip": "File name without ending, in models/membranes. Subfolders with / are made. A file "
                        "of another training is never overwritten: the new one gets a number.",
                    },
                ),
                "options": options_input(
                    "Settings of the method, as in: lr=5e-4, anchor_weight=20. Empty = its own. The "
                    "help page has the tables; a wrong one is named.",
                ),
            },
            "optional": {
                "vae": ("VAE", {"tooltip": "Draws the previews. Not connected = rough ones, as samplers show."}),
                "preview_every": _whole(
                    50,
                    100_000,
                    "Steps between two previews, which cost time. 0 = only before and after.",
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, method: str | None, options: str | None) -> bool | str:
        """A message if the options cannot be read or the method has no such setting."""
        from .trained import check

        return refusal(check, method, options)

    def run(
        self,
        model: Any,
        clip: Any,
        concepts: Any,
        method: str,
        preset: str,
        steps: int,
        rank: int,
        training_seed: int,
        name: str,
        options: str,
        vae: Any = None,
        preview_every: int = 50,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Train, write the file, and apply."""
        from ..erasure_core import Membrane, apply
        from .model import HostModel
        from .show import applied
        from .trained import Wish, train

        wish = Wish(concepts, method, preset, steps, rank, training_seed, name, options, preview_every)
        found = train(model, clip, wish, vae, unique_id)
        membranes = (Membrane(found.erasure),)
        shown = applied(apply(HostModel(model, clip, unique_id), membranes), membranes)
        *changed, receipt = shown["result"]
        return {**shown, "result": (*changed, found.pictures, found.curve, f"{found}\n{receipt}")}


def _whole(default: int, most: int, tip: str) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": 0, "max": most, "tooltip": tip})

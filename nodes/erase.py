"""Erase: solve an erasure for the model in the graph and apply it at once."""

from __future__ import annotations

from typing import Any

from .common import OUTPUTS, clip_input, model_input, options_input, refusal, strength_input


class Erase:
    """MODEL, CLIP, CONCEPTS -> the same without the concepts."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Makes the model stop drawing the concepts, in a moment and without training. Connect MODEL and CLIP to "
        "whatever would have used the checkpoint's. The MEMBRANE output is the result, to save or to combine."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "MEMBRANE", "STRING")
    RETURN_NAMES = ("model", "clip", "membrane", "receipt")
    OUTPUT_TOOLTIPS = (*OUTPUTS[:2], "The erasure by itself, for Save Membrane and Apply Membranes.", OUTPUTS[2])
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to change, what to erase, and how."""
        from ..erasure_core.closed_form import METHODS

        return {
            "required": {
                "model": model_input(),
                "clip": clip_input(),
                "concepts": ("CONCEPTS", {"tooltip": "What to erase, from Concepts."}),
                "method": (
                    list(METHODS),
                    {"default": "uce", "tooltip": "How the erasure is solved. The help page compares the methods."},
                ),
                "strength": strength_input(),
                "options": options_input(
                    "Settings of the method, as in: lamb=0.1, expand_prompts=no. Empty = our defaults; "
                    "parity=yes = the published ones. The help page has the table; a wrong one is named.",
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, method: str | None, options: str | None) -> bool | str:
        """A message if the options cannot be read or the method has no such setting."""
        from ..erasure_core.closed_form import check_options

        return refusal(check_options, method, options)

    def run(
        self,
        model: Any,
        clip: Any,
        concepts: Any,
        method: str,
        strength: float,
        options: str,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Solve and apply."""
        from ..erasure_core import Membrane, apply
        from ..erasure_core.closed_form import erase_with
        from .model import HostModel
        from .show import applied

        target = HostModel(model, clip, unique_id)
        erasure = erase_with(target, concepts, method, options)
        membranes = (Membrane(erasure, strength=strength, gate="always"),)
        return applied(apply(target, membranes), membranes)

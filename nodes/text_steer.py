"""Text Steer: rewrite the prompt's vectors so that a concept is gone from them."""

from __future__ import annotations

from typing import Any

from .common import OUTPUTS, amount_input, clip_input, model_input, options_input, refusal

METHODS = ["projection", "lancet", "safree"]


class TextSteer:
    """MODEL, CLIP, CONCEPTS -> the same with every prompt's text steered, or one CONDITIONING steered."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Takes a concept out of the text before the model sees it, at any CFG and no cost per step. Use model and clip "
        "for everything, or connect one conditioning: then only that is changed, and the model passes as it is."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "CONDITIONING", "STRING")
    RETURN_NAMES = ("model", "clip", "conditioning", "receipt")
    OUTPUT_TOOLTIPS = (
        "The model that steers every prompt, for any sampler; as it came in if a conditioning is connected.",
        OUTPUTS[1],
        "The connected conditioning, steered; empty if none is connected.",
        "What was done, as text: method, concepts, and of a connected conditioning which rows were changed.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to take out of which text, and how."""
        return {
            "required": {
                "model": model_input("Stable Diffusion 1, 2 or XL"),
                "clip": clip_input(),
                "concepts": ("CONCEPTS", {"tooltip": "What to take out, from Concepts."}),
                "method": (
                    METHODS,
                    {
                        "default": "projection",
                        "tooltip": "projection swaps the direction that tells the concept from its anchor, lancet as "
                        "much of the concept as is there, safree cleans the words that bring it.",
                    },
                ),
                "strength": amount_input(
                    "How much of the change is made, 0 to 10: 0 = off, to the last bit; 1 = as meant.",
                ),
                "options": options_input(
                    "Settings of the method, as in: rows=words, gate=always. Empty = our defaults. The "
                    "help page has the table; a wrong one is named.",
                ),
            },
            "optional": {
                "conditioning": (
                    "CONDITIONING",
                    {"tooltip": "One prompt to steer, encoded with the clip of a Membrane node. Not connected = all."},
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, method: str | None, options: str | None) -> bool | str:
        """A message if the options cannot be read or the method has no such setting."""
        from .texts import read

        return refusal(read, method, options)

    def run(
        self,
        model: Any,
        clip: Any,
        concepts: Any,
        method: str,
        strength: float,
        options: str,
        conditioning: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Fit the method and put it in force."""
        from ..erasure_core.guidance.text import text_steering
        from . import host
        from .model import HostModel
        from .stamp import stamped
        from .texts import Rewrite, read, rewritten

        given = read(method, options)
        target = HostModel(model, clip, unique_id)
        term = text_steering(target, concepts, method, strength, **given)
        lines = [["method", method], ["takes out", ", ".join(c.target for c in concepts)]]
        lines += [["strength", f"{strength:g}"], ["acts on", "every prompt" if conditioning is None else "one text"]]
        out, report = ([], "") if conditioning is None else rewritten(conditioning, term, target.family)
        steered = host.clone(model)
        if conditioning is None and strength != 0:
            wrapper = Rewrite(term, target.family, unique_id)
            host.put_wrappers(steered, wrapper, wrapper.around_sampling, wrapper.key)
        receipt = "\n".join([*(f"{label}: {line}" for label, line in lines), *report.splitlines()])
        entry = {"name": "Text Steer", "lines": lines, "notes": report.splitlines()}
        panel = {"kind": "file", "entries": [entry]}
        return {"ui": {"membrane": [panel]}, "result": (steered, stamped(clip), out, receipt)}

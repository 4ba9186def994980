"""Concept Firewall: a policy of up to ten thousand concepts, of which only those act that a prompt names."""

from __future__ import annotations

from typing import Any

from .common import OUTPUTS, clip_input, model_input

NONE = "(none)"


class ConceptFirewall:
    """MODEL, CLIP, a policy or CONCEPTS -> the same with the policy in force."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Keeps up to 10,000 concepts out of pictures. Only what a prompt names is erased from it, in the moment it is "
        "drawn; a prompt that names none stays the same to the last bit. Use its clip for all prompts."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("model", "clip", "receipt")
    OUTPUT_TOOLTIPS = OUTPUTS
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to guard, the policy, and how readily it acts."""
        from . import host

        return {
            "required": {
                "model": model_input(),
                "clip": clip_input(),
                "policy": (
                    [NONE, *host.policy_names()],
                    {
                        "default": NONE,
                        "tooltip": "A policy in models/membrane_policies: .json, .toml, .csv, or .txt with one concept "
                        "a line. (none) = only the concepts that are connected.",
                    },
                ),
                "sensitivity": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "round": 0.001,
                        "tooltip": "How readily a connected concept counts as named, 0 to 1: 0 = only its exact "
                        "phrases, 1 = anything close. A policy file has its own for each rule.",
                    },
                ),
                "vectors": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Also judge texts whose words are not known (joined, averaged, from another pack) "
                        "by their vectors. on = needs an index of the policy, made once and kept beside it; "
                        "off = such texts pass.",
                    },
                ),
            },
            "optional": {
                "concepts": ("CONCEPTS", {"tooltip": "Concepts to add to the policy. Not connected = none."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, policy: str, **others: Any) -> Any:
        """What the file is now."""
        from . import host
        from .files import state_of

        return state_of(host.policy_path(policy))

    def run(
        self,
        model: Any,
        clip: Any,
        policy: str,
        sensitivity: float,
        vectors: bool,
        concepts: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Read the policy and put it in force."""
        from .guarding import guard
        from .show import guarded

        return guarded(guard(model, clip, policy, sensitivity, vectors, concepts, unique_id))

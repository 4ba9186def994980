"""Concepts: what to erase, written as text and checked before anything runs."""

from __future__ import annotations

from typing import Any


class Concepts:
    """Concept text -> CONCEPTS."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "What to erase, one concept per line: target | other names -> what to draw instead. Without an arrow the "
        "concept becomes the neutral words of its kind. A line that starts with + is a phrase that must stay."
    )
    RETURN_TYPES = ("CONCEPTS",)
    RETURN_NAMES = ("concepts",)
    OUTPUT_TOOLTIPS = ("The list of concepts, for Erase.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Text, kind, phrases to preserve, and a list to extend."""
        from ..erasure_core.concepts import KINDS

        return {
            "required": {
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "circle | disc -> square",
                        "tooltip": "One concept per line: target | other name -> anchor @ weight. The weight is above "
                        "0 and at most 100; 1 is normal. Lines starting with + are phrases to preserve, # comments.",
                    },
                ),
                "kind": (
                    list(KINDS),
                    {
                        "default": "object",
                        "tooltip": "Kind of the lines that name none (style: Van Gogh names one). It chooses the "
                        "sentences a concept is erased in, and the neutral words if it has no anchor.",
                    },
                ),
                "preserve": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "",
                        "tooltip": "Phrases that must stay as they are, one per line; empty = none beyond the lines "
                        "with + above. Name neighbours of the concept that you care about.",
                    },
                ),
            },
            "optional": {
                "concepts": (
                    "CONCEPTS",
                    {"tooltip": "Concepts of another node, to which these are added. Not connected = none."},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text: str | None, kind: str | None, preserve: str | None) -> bool | str:
        """A message with line and column if a text cannot be read; linked ones are read when they arrive."""
        from ..erasure_core.concepts import check_text
        from ..erasure_core.errors import MembraneError

        try:
            for part in (text, None if preserve is None else _kept(preserve)):
                if part is not None:
                    check_text(part, kind or "object")
        except MembraneError as error:
            return str(error)
        return True

    def run(self, text: str, kind: str, preserve: str, concepts: Any = None) -> tuple[Any]:
        """Read the text and add it to what came in."""
        from ..erasure_core.concepts import concept_set

        return (concept_set([*([] if concepts is None else [concepts]), text, _kept(preserve)], kind),)


def _kept(preserve: str) -> str:
    """The phrases as lines of concept text."""
    return "\n".join(f"+ {line.strip().removeprefix('+')}" if line.strip() else "" for line in preserve.splitlines())

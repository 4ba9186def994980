"""Settings and phrase lists for usual jobs, as data files that a studio can copy and edit.

.. code-block:: json

    {"summary": "what it is for", "kind": "safety", "method": "uce", "options": "lamb=0.3, protect=5",
     "concepts": ["nude | naked -> a person wearing clothes"], "preserve": ["a portrait"]}

``options`` are written as in the nodes; ``concepts`` are lines of concept text, and a preset without them is for
concepts of your own. Only ``method`` is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..closed_form import check_options
from ..concepts import ConceptSet, check_text, concept_set
from ..errors import BadInput
from ..phrases import checked_kind, clean_all
from ..tables import names_in, read_table

FOLDER = Path(__file__).parent
_KEYS = ("summary", "kind", "method", "options", "concepts", "preserve")


@dataclass(frozen=True)
class Preset:
    """How to do a job: ``method`` with ``options``, for concepts of ``kind``, with phrases ready to use."""

    name: str
    method: str
    summary: str = ""
    kind: str = "object"
    options: str = ""
    concepts: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()

    def concept_set(self, text: str = "") -> ConceptSet:
        """The preset's concepts and those of ``text``, and what stays: the preset's phrases that are not to be erased.

        Raises BadInput if there is no concept at all.
        """
        if not self.concepts and not text.strip():
            raise BadInput(f"The preset '{self.name}' names no concept of its own: say which ones to erase.")
        made = concept_set("\n".join([*self.concepts, text]), self.kind)
        erased = {phrase.casefold() for concept in made for phrase in concept.phrases}
        stay = [phrase for phrase in self.preserve if phrase.casefold() not in erased]
        return ConceptSet(made.concepts, tuple(dict.fromkeys([*made.preserve, *stay])))


def names() -> list[str]:
    """Our presets."""
    return names_in(FOLDER)


def load(where: str) -> Preset:
    """Our preset of that name, or the user's file at that path. Raises BadInput, saying what is wrong with it."""
    content = read_table(where, FOLDER, "preset")
    name = Path(where).stem
    if not isinstance(content, Mapping) or "method" not in content:
        raise BadInput(f'The preset \'{name}\' needs at least a method: {{"method": "uce"}}.')
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise BadInput(f"The preset '{name}' has an entry '{unknown[0]}' that nobody reads. Known: {', '.join(_KEYS)}.")
    try:
        return _checked(name, content)
    except BadInput as error:
        raise BadInput(f"The preset '{name}' cannot be used. {error}") from error


def _checked(name: str, content: Mapping[str, Any]) -> Preset:
    method, options = str(content["method"]), content.get("options", "")
    if not isinstance(options, str):
        raise BadInput('"options" is one text: "lamb=0.3, protect=5".')
    check_options(method, options)
    lines = content.get("concepts", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadInput('"concepts" is a list of lines of concept text: ["circle | disc -> square"].')
    kind = checked_kind(content.get("kind", "object"))
    check_text("\n".join(lines), kind)
    kept = clean_all(content.get("preserve", []), "preserve")
    return Preset(name, method, str(content.get("summary", "")), kind, options, tuple(lines), kept)

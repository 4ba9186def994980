"""What a file of settings asks for, in our words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...concepts import Concept, ConceptSet
from ..examples import Example


@dataclass(frozen=True)
class Configuration:
    """Arguments of :func:`~erasure_core.training.train`; ``notes`` are sentences on what has no counterpart."""

    method: str
    concepts: ConceptSet
    examples: tuple[Example, ...] | None
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


def concepts_of(examples: Sequence[Example], preserve: Sequence[str] = ()) -> ConceptSet:
    """The concepts that examples are about, with an anchor where all examples of one agree on it."""
    anchors: dict[str, set[str]] = {}
    for example in examples:
        name = example.texts["concept"] or example.texts.get("positive", "")
        anchors.setdefault(name, set()).add(example.texts["anchor"])
    named = {name.casefold() for name in anchors}
    found = []
    for name, own in anchors.items():
        anchor = own.pop() if len(own) == 1 else ""
        found.append(Concept(name, "" if anchor.casefold() in named else anchor))
    return ConceptSet(tuple(found), tuple(phrase for phrase in preserve if phrase.casefold() not in named))

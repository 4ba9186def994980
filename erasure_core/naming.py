"""Which of many concepts a text names: phrases found in it, weighed by their sense, against each concept's sensitivity.

Everything that looks for words, a gate or a firewall, does it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .matching import Finder
from .senses import sense
from .words import Words

USUAL = 0.5


@dataclass(frozen=True)
class Named:
    """A concept as far as words go.

    ``phrases`` name it, ``excuses`` contain one of them and mean something else. ``sensitivity``: 0 takes only the
    phrases as written and in their own sense; from 0.1 other numbers count (``matching.INFLECTED``), from 0.6 a word
    that probably describes another noun (``senses.DOUBTFUL``), from 0.9 also one inside a listed compound
    (``senses.OTHER``). Excuses hold at any sensitivity.
    """

    phrases: tuple[str, ...]
    excuses: tuple[str, ...] = ()
    kind: str = "object"
    sensitivity: float = USUAL


class Naming:
    """Says which of ``concepts`` a text names."""

    def __init__(self, concepts: Sequence[Named]) -> None:
        self._concepts = tuple(concepts)
        self._finder = Finder(
            (owner, phrase, excuse)
            for owner, concept in enumerate(concepts)
            for phrases, excuse in ((concept.phrases, False), (concept.excuses, True))
            for phrase in phrases
        )

    def __len__(self) -> int:
        """How many different spellings are known."""
        return len(self._finder)

    def __call__(self, text: Words) -> list[int]:
        """Numbers of the concepts that are named, ascending."""
        hits = self._finder(text)
        excuses = [hit for hit in hits if hit.entry.excuse]
        named = set()
        for hit in hits:
            owner = hit.entry.owner
            if hit.entry.excuse or any(hit.within(other) for other in excuses if other.entry.owner == owner):
                continue
            concept = self._concepts[owner]
            sure = min(hit.sure, sense(text, hit.start, hit.end, concept.kind))
            if sure >= 1 - concept.sensitivity - 1e-9:
                named.add(owner)
        return sorted(named)

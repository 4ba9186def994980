"""Where phrases stand in a text: one look-up in a dictionary for each window of words, however many phrases there are.

A phrase is known by its letters alone, so "spider-man", "spider man" and "spiderman" are one. Its last word may be
inflected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .inflection import plurals, singular
from .senses import FUNCTION
from .words import BOUNDARY, Words, words_of_text

EXACT, INFLECTED = 1.0, 0.9  # how sure it is that a phrase is meant


@dataclass(frozen=True)
class Entry:
    """A phrase and whose it is; an ``excuse`` does not name the owner but says that something else is meant."""

    owner: int
    words: tuple[str, ...]
    excuse: bool = False


@dataclass(frozen=True)
class Hit:
    """Words ``start`` to ``end`` of a text read as a phrase; ``sure`` is ``EXACT`` or ``INFLECTED``."""

    entry: Entry
    start: int
    end: int
    sure: float

    def within(self, other: Hit) -> bool:
        """Whether the other hit covers this one."""
        return other.start <= self.start and self.end <= other.end


class Finder:
    """Finds any of many phrases; ``phrases`` are (owner, phrase, whether it is an excuse)."""

    def __init__(self, phrases: Iterable[tuple[int, str, bool]]) -> None:
        self._entries: dict[str, list[tuple[Entry, float]]] = {}
        self._longest = 0
        for owner, phrase, excuse in phrases:
            words = words_of_text(phrase).texts
            if words:
                self._add(Entry(owner, words, excuse))

    def _add(self, entry: Entry) -> None:
        for key, sure in _forms(entry.words):
            self._entries.setdefault(key, []).append((entry, sure))
            self._longest = max(self._longest, len(key))

    def __len__(self) -> int:
        return len(self._entries)

    def __call__(self, text: Words) -> list[Hit]:
        """All hits, overlapping ones included, in the order they begin."""
        return list(self._hits(text))

    def _hits(self, text: Words) -> Iterator[Hit]:
        for start in range(len(text)):
            key = ""
            for end in range(start, len(text)):
                key += text.texts[end]
                if len(key) > self._longest:
                    break
                for entry, sure in self._entries.get(key, ()):
                    window = text.texts[start : end + 1]
                    if _cut_alike(window, entry.words):
                        yield Hit(entry, start, end + 1, sure)
                if text.gaps[end] == BOUNDARY:
                    break


def _forms(words: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """The phrase's letters as written and with its last word in the other number."""
    *before, last = words
    head = "".join(before)
    yield head + last, EXACT
    if last.isalpha() and len(last) > 1:
        others = {*plurals(last), singular(last)} - {last}
        yield from ((head + form, INFLECTED) for form in sorted(others))


def _cut_alike(window: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Whether the words are cut as in the phrase or none is lost by joining: "the rapist" is no therapist."""
    return len(window) == len(words) or not any(word in FUNCTION and word not in words for word in window)

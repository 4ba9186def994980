"""Whether a word stands for the thing it names or helps to name another: "orange juice" is not about an orange.

Rules, not statistics, so that every answer can be explained. Only single words of everyday language are in doubt
(``wordlists/everyday.txt``); a name like "Pikachu" is meant wherever it stands. Such a word means something else

- in an everyday compound ("hot dog", "teddy bear"; ``wordlists/compounds.txt``), or before the likes of "shaped";
- directly before another noun, as its modifier ("turkey sandwich"), but not before grammar words, verbs, adjectives and
  words of pictures ("cat portrait", "batman costume"; ``wordlists/context.txt``), and never in the plural;
- as a place ("Jordan river", "in Jordan"), a time ("at dawn") or a colour ("is orange", "orange and teal").
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .inflection import singular
from .words import BESIDE, Words, words_of_text

CLEAR, DOUBTFUL, OTHER = 1.0, 0.4, 0.1  # how sure it is that the word itself is meant
_LISTS = Path(__file__).parent / "wordlists"
_COMPOUND = 6  # words of the longest compound


def list_lines(name: str) -> list[str]:
    """Lines of one of our word lists, without comments."""
    return [line for line in (_LISTS / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _sections() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    section = ""
    for line in list_lines("context.txt"):
        if line.startswith("["):
            section = line[1 : line.index("]")]
        else:
            found.setdefault(section, set()).update(line.split())
    return {name: frozenset(words) for name, words in found.items()}


_CONTEXT = _sections()
FUNCTION = _CONTEXT["function"]
_EVERYDAY = frozenset(word for line in list_lines("everyday.txt") for word in line.split())


@lru_cache(maxsize=1)
def _compounds() -> frozenset[str]:
    entries = (entry for line in list_lines("compounds.txt") for entry in line.split(";"))
    return frozenset(" ".join(words_of_text(entry).texts) for entry in entries)


@lru_cache(maxsize=1)
def _verbs() -> frozenset[str]:
    return _CONTEXT["verbs"] | {verb + ending for verb in _CONTEXT["verbs"] for ending in ("s", "es")}


def sense(text: Words, start: int, end: int, kind: str) -> float:
    """How sure it is that words ``start`` to ``end`` are meant: ``CLEAR``, ``DOUBTFUL`` or ``OTHER``.

    ``kind``: of the concept; a style may well be a modifier ("cubism painting", "orange circle" for a colour).
    """
    word = text.texts[start]
    base = word if word in _EVERYDAY else singular(word)
    if end - start > 1 or kind == "style" or base not in _EVERYDAY:
        return CLEAR
    if _in_compound(text, start):
        return OTHER
    before = text.texts[start - 1] if start and text.gaps[start - 1] == BESIDE else ""
    after = text.texts[end] if end < len(text) and text.gaps[start] == BESIDE else ""
    if after in _CONTEXT["suffixed"] or (kind in ("person", "character") and after in _CONTEXT["places"]):
        return OTHER
    if kind in ("person", "character") and _is_place_or_time(word, before):
        return DOUBTFUL
    if base in _CONTEXT["colours"] and _is_colour(text, start, before, after):
        return DOUBTFUL
    if base != word or _keeps(after, text.texts[end + 1] if end + 1 < len(text) else ""):
        return CLEAR
    return DOUBTFUL


def _in_compound(text: Words, at: int) -> bool:
    """Whether the word is part of a listed compound of two words or more."""
    for first in range(max(0, at - _COMPOUND + 1), at + 1):
        for last in range(max(at, first + 1), min(len(text), first + _COMPOUND)):
            if any(gap != BESIDE for gap in text.gaps[first:last]):
                break
            *head, end = text.texts[first : last + 1]
            if not _compounds().isdisjoint({" ".join([*head, end]), " ".join([*head, singular(end)])}):
                return True
    return False


def _keeps(after: str, second: str) -> bool:
    """Whether a thing before the words ``after`` and ``second`` stands for itself."""
    if not after or not after.isalpha() or after in FUNCTION or after in _CONTEXT["adjectives"]:
        return True
    if after in _CONTEXT["depiction"] or after in _verbs() or after in _CONTEXT["irregular"]:
        return True
    if after in _CONTEXT["media"] and second in _CONTEXT["depiction"]:
        return True
    return after.endswith(("ing", "ed", "ly")) and len(after) > 4 and after not in _CONTEXT["nouns"]


def _is_place_or_time(word: str, before: str) -> bool:
    if word in _CONTEXT["times"]:
        return before in _CONTEXT["before times"]
    return before in _CONTEXT["before places"]


def _is_colour(text: Words, at: int, before: str, after: str) -> bool:
    if before in _CONTEXT["before colours"]:
        return True
    names = _CONTEXT["colours"] | _CONTEXT["plain colours"]
    left = text.texts[at - 2] if before in ("and", "or") and at >= 2 else before
    right = text.texts[at + 2] if after in ("and", "or") and at + 2 < len(text) else after
    return left in names or right in names

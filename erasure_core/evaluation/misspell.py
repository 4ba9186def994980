"""Misspellings a person or a filter-dodging prompt would use, the same ones for the same seed."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

from ..errors import BadInput

_JOINERS = {"\u200d", "\u200c"}
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LEET = {"a": "4", "b": "8", "e": "3", "g": "9", "i": "1", "l": "1", "o": "0", "s": "5", "t": "7", "z": "2"}
# Letters of other alphabets that look like the Latin ones.
_HOMOGLYPHS = {
    "a": "\u0430", "c": "\u0441", "e": "\u0435", "i": "\u0456", "j": "\u0458", "n": "\u0578", "o": "\u043e",
    "p": "\u0440", "q": "\u051b", "r": "\u0433", "s": "\u0455", "u": "\u057d", "w": "\u051d", "x": "\u0445",
    "y": "\u0443", "h": "\u04bb", "l": "\u04cf", "d": "\u0501", "g": "\u0261", "k": "\u043a", "v": "\u03bd",
}  # fmt: skip


def misspell(word: str, seed: int = 0, kind: str | None = None) -> str:
    """One misspelling of ``word``: never the word itself (in any case), never empty, upper and lower case kept.

    ``kind`` is one of :data:`KINDS`; None lets the seed choose. A kind that cannot change this word (swapping the
    letters of "aa") falls back to the next one, doubling at the last.
    """
    units = _units(word)
    if not word.strip():
        raise BadInput("There is nothing to misspell: the word is empty.")
    if kind is not None and kind not in _RULES:
        raise BadInput(f"Unknown kind of misspelling {kind!r}; use one of {', '.join(KINDS)}.")
    rng = random.Random(f"{seed}|{kind}|{word}")
    order = [kind] if kind else rng.sample(KINDS, len(KINDS))
    for name in [*order, *KINDS, "double"]:
        made = _attempt(_RULES[name], units, rng)
        if made is not None:
            return made
    return word + units[-1]


def misspellings(word: str, count: int, seed: int = 0) -> tuple[str, ...]:
    """Up to ``count`` different misspellings, the kinds taken in turn; a short word may have fewer."""
    found: dict[str, None] = {}
    for turn in range(8 * count):
        if len(found) == count:
            break
        found.setdefault(misspell(word, seed + turn // len(KINDS), KINDS[turn % len(KINDS)]))
    return tuple(found)


def _attempt(rule: Callable[[list[str], int], list[str] | None], units: list[str], rng: random.Random) -> str | None:
    """The rule at the first place, in random order, where it changes the word into something else."""
    word = "".join(units)
    for place in rng.sample(range(len(units)), len(units)):
        made = rule(units, place)
        text = "" if made is None else "".join(made)
        if text.strip() and _plain(text) != _plain(word):
            return text
    return None


def _units(word: str) -> list[str]:
    """Characters with the marks and joiners that belong to them, so that no rule tears an accent or emoji apart."""
    units: list[str] = []
    for char in word:
        glued = unicodedata.combining(char) or char in _JOINERS or unicodedata.category(char) in ("Mn", "Me", "Sk")
        if units and (glued or units[-1][-1] in _JOINERS):
            units[-1] += char
        else:
            units.append(char)
    return units


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _like(char: str, model: str) -> str:
    """``char`` in the case of ``model``, if both have one and the change keeps one character."""
    changed = char.upper() if model.isupper() else char.lower() if model.islower() else char
    return changed if len(changed) == len(char) else char


def _replace(units: list[str], place: int, new: str) -> list[str]:
    return [*units[:place], _like(new, units[place]), *units[place + 1 :]]


def _drop(units: list[str], place: int) -> list[str] | None:
    if len(units) < 2 or units[place].isspace():
        return None
    rest = [*units[:place], *units[place + 1 :]]
    if place == 0:
        rest[0] = _like(rest[0], units[0])
    return rest


def _swap(units: list[str], place: int) -> list[str] | None:
    if place + 1 >= len(units) or units[place].isspace() or units[place + 1].isspace():
        return None
    first, second = units[place], units[place + 1]
    return [*units[:place], _like(second, first), _like(first, second), *units[place + 2 :]]


def _double(units: list[str], place: int) -> list[str] | None:
    if units[place].isspace():
        return None
    # The copy stands inside the word, so "Star" becomes "Sttar" or "Sstar", not "SStar".
    copy = units[place].lower() if place == 0 and len(units) > 1 and units[1].islower() else units[place]
    return [*units[: place + 1], copy, *units[place + 1 :]]


def _neighbour_key(units: list[str], place: int) -> list[str] | None:
    letter = units[place].lower()
    for row in _KEYS:
        if letter in row:
            at = row.index(letter)
            return _replace(units, place, row[at + 1] if at + 1 < len(row) else row[at - 1])
    return None


def _break_with(mark: str, units: list[str], place: int) -> list[str] | None:
    if place == 0 or units[place].isspace() or units[place - 1].isspace():
        return None
    return [*units[:place], mark, *units[place:]]


def _spacing(units: list[str], place: int) -> list[str] | None:
    if units[place].isspace():
        return [*units[:place], *units[place + 1 :]]
    return _break_with(" ", units, place)


def _hyphen(units: list[str], place: int) -> list[str] | None:
    return _break_with("-", units, place)


def _look_up(table: dict[str, str], units: list[str], place: int) -> list[str] | None:
    found = table.get(units[place].lower())
    return None if found is None else _replace(units, place, found)


def _homoglyph(units: list[str], place: int) -> list[str] | None:
    return _look_up(_HOMOGLYPHS, units, place)


def _leet(units: list[str], place: int) -> list[str] | None:
    return _look_up(_LEET, units, place)


_RULES: dict[str, Callable[[list[str], int], list[str] | None]] = {
    "drop": _drop,
    "swap": _swap,
    "double": _double,
    "neighbour key": _neighbour_key,
    "spacing": _spacing,
    "hyphen": _hyphen,
    "homoglyph": _homoglyph,
    "leet": _leet,
}
KINDS = tuple(_RULES)

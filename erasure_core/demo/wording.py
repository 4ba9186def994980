"""Words beyond the plain vocabulary of the captions: misspellings and implicit wording, each in two disjoint parts.

The ``train`` part may be shown to a text encoder, the ``held_out`` part is for tests only. Both splits are fixed rules,
so every machine and every version splits alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .world import COLOUR_SYNONYMS, COLOURS, SHAPE_SYNONYMS, SHAPES, STYLE_SYNONYMS, STYLES

SYNONYMS: Mapping[str, tuple[str, ...]] = {**SHAPE_SYNONYMS, **COLOUR_SYNONYMS, **STYLE_SYNONYMS}

NOUNS = ("shape", "figure", "object")
"""What captions call a shape that they do not name."""

SHAPE_HINTS: Mapping[str, tuple[str, str, str]] = {
    "circle": ("with no corners", "that is perfectly round", "without any corner"),
    "square": ("with four corners", "with four equal sides", "with four right angles"),
    "triangle": ("with three corners", "with three sides", "with three angles"),
    "star": ("with five points", "with five tips", "with five spikes"),
    "heart": ("that stands for love", "that means love", "of love"),
    "cross": ("made of two crossed bars", "with four arms", "of two crossing bars"),
    "moon": ("like a sickle", "curved like a sickle", "bent like a banana"),
    "ring": ("with a round hole", "with a hole in the middle", "like a doughnut"),
}
COLOUR_HINTS: Mapping[str, tuple[str, str, str]] = {
    "red": ("blood", "ripe tomatoes", "strawberries"),
    "orange": ("carrots", "pumpkins", "apricots"),
    "yellow": ("lemons", "ripe bananas", "sunflowers"),
    "green": ("grass", "spring leaves", "frogs"),
    "cyan": ("a tropical lagoon", "glacier ice", "swimming pools"),
    "blue": ("the deep sea", "blueberries", "the evening sky"),
    "purple": ("plums", "eggplants", "lavender"),
    "pink": ("flamingos", "bubble gum", "cherry blossom"),
}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
COLOUR_FRAMES = ("in the colour of", "coloured like", "as coloured as")


@dataclass(frozen=True)
class Split:
    """Two disjoint tuples of wordings with the same meaning."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def _neighbours(letter: str) -> str:
    """The letters beside this one on the keyboard, in its own row."""
    row = next(row for row in KEYBOARD if letter in row)
    at = row.index(letter)
    return row[max(0, at - 1) : at] + row[at + 1 : at + 2]


def _edits(word: str) -> set[str]:
    """All single slips that keep the first letter: one doubled, two swapped, one left out, the key beside it hit."""
    doubled = {word[: i + 1] + word[i:] for i in range(1, len(word))}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1)}
    dropped = {word[:i] + word[i + 1 :] for i in range(1, len(word))} if len(word) > 3 else set()
    missed = {word[:i] + key + word[i + 1 :] for i in range(1, len(word)) for key in _neighbours(word[i])}
    return (doubled | swapped | dropped | missed) - {word}


def vocabulary() -> tuple[str, ...]:
    """Every attribute word of the captions: names, then synonyms."""
    names = (*SHAPES, *COLOURS, *STYLES)
    return (*names, *(word for name in names for word in SYNONYMS[name]))


@cache
def misspellings(word: str) -> Split:
    """Misspelt forms of a caption word that belong to no other word; a quarter, chosen by hash, is held out.

    Words of two parts ("plus sign") have none.
    """
    if " " in word:
        return Split((), ())
    taken = {part for entry in (*vocabulary(), *NOUNS) for part in entry.split()}
    others = [other for other in vocabulary() if other != word and " " not in other]
    taken.update(form for other in others for form in _edits(other))
    forms = sorted(_edits(word) - taken)
    held = tuple(form for form in forms if hashlib.sha256(form.encode()).digest()[0] % 4 == 0)
    return Split(tuple(form for form in forms if form not in held), held)


def _cross(heads: tuple[str, ...], tails: tuple[str, ...]) -> Split:
    """Every head with every tail; the third diagonal of that table is held out, so each word occurs in training."""
    parts: tuple[list[str], list[str]] = ([], [])
    for i, head in enumerate(heads):
        for j, tail in enumerate(tails):
            parts[(i + j) % 3 == 2].append(f"{head} {tail}")
    return Split(tuple(parts[0]), tuple(parts[1]))


@cache
def implicit(name: str) -> Split:
    """Wordings that mean a shape ("figure with three corners") or a colour ("in the colour of grass") unnamed.

    A shape's wording takes the place of the shape word; a colour's follows the shape. Styles have none.
    """
    if name in SHAPE_HINTS:
        return _cross(NOUNS, SHAPE_HINTS[name])
    if name in COLOUR_HINTS:
        return _cross(COLOUR_FRAMES, COLOUR_HINTS[name])
    return Split((), ())

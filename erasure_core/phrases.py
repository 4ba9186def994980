"""What a phrase, a kind and a weight must be like, whoever hands them in: one clear sentence where they are not."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from .concept_syntax import KINDS
from .errors import BadInput

MAX_WORDS = 75
"""Longest phrase in words: what one chunk of a CLIP text encoder can hold at best."""

MAX_WEIGHT = 100.0
_MAX_CHARACTERS = 1000
EXAMPLE = "circle | disc -> square @ 1.5"
"""A line as it should be, shown in messages."""

# Characters without width that come along when text is copied from web pages; they would only disturb the tokenizer.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def is_control(char: str) -> bool:
    """True for characters no phrase can hold: control characters except the tab, and half a surrogate pair."""
    return unicodedata.category(char) in ("Cc", "Cs") and char != "\t"


def control_sentence(char: str) -> str:
    """What to tell the user about such a character."""
    if char in "\r\n":
        return "a phrase stays on one line. Remove the line break."
    return (
        f"the character U+{ord(char):04X} cannot be part of a phrase. It is invisible and usually comes from a "
        "damaged or binary file. Delete it, or type the line again."
    )


def clean(phrase: object, what: str, may_be_empty: bool = False) -> str:
    """The phrase in its one form (NFC, single spaces), checked."""
    if not isinstance(phrase, str):
        raise BadInput(f"The {what} of a concept is text, not {type(phrase).__name__}.")
    for char in phrase:
        if is_control(char):
            raise BadInput(control_sentence(char))
    words = unicodedata.normalize("NFC", phrase.translate(_INVISIBLE)).split()
    cleaned = " ".join(words)
    if not words and not may_be_empty:
        raise BadInput(f"The {what} is empty. Write a phrase: {EXAMPLE}")
    if len(words) > MAX_WORDS or len(cleaned) > _MAX_CHARACTERS:
        raise BadInput(
            f"The {what} beginning {cleaned[:40]!r} has {len(words)} words and {len(cleaned)} characters; at most "
            f"{MAX_WORDS} words and {_MAX_CHARACTERS} characters are allowed. Name the concept in a few words, one "
            "concept per line."
        )
    return cleaned


def clean_all(phrases: object, what: str) -> tuple[str, ...]:
    """Every phrase through :func:`clean`, none twice, in order."""
    if isinstance(phrases, str) or not isinstance(phrases, Iterable):
        raise BadInput(f"{what} is a list of phrases, not {type(phrases).__name__}. Write {what}=('a phrase',).")
    return tuple(dict.fromkeys(clean(phrase, what) for phrase in phrases))


def checked_kind(kind: object) -> str:
    """The kind, if it is one of :data:`KINDS`."""
    if kind in KINDS:
        return str(kind)
    near = difflib.get_close_matches(str(kind), KINDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise BadInput(f"{kind!r} is no kind of concept.{hint} Kinds are {', '.join(KINDS)}.")


def checked_weight(weight: object) -> float:
    """The weight as a float, if it lies in (0, 100]."""
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BadInput(f"The weight of a concept is a number, not {type(weight).__name__}.")
    if not 0 < weight <= MAX_WEIGHT:  # also false for NaN
        raise BadInput(
            f"The weight {weight:g} is out of range. It must be above 0 and at most {MAX_WEIGHT:g}; 1 is normal."
        )
    return float(weight)

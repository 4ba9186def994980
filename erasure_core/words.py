"""The words of a text in one form, from the text itself or from the token ids that were made of it.

A word is a run of letters without case and accents, or one digit, as CLIP's tokenizer cuts them; so the ids of all
chunks of a prompt and the prompt without its weights and brackets give the same words. Hyphens and apostrophes
disappear; commas are boundaries that no phrase crosses, other marks only part a word from what follows.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .demo.bundle import WEIGHTS
from .prompts import parse_weights

BESIDE, APART, BOUNDARY = 0, 1, 2  # what stands between a word and the next: a space or hyphen, a mark, a comma
_PIECES = re.compile(r"(?P<cjk>[\u3040-\u30ff\u3400-\u9fff])|(?P<word>[^\W\d_]+)|(?P<digit>\d)|(?P<mark>\S)")
_SILENT = "'-_\u2010\u2011"
_COMMAS = ",;|\uff0c\u3001"
_FOLDED = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i", "’": "'", "ʼ": "'", "`": "'"}
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_END = "</w>"


@dataclass(frozen=True)
class Words:
    """Words in order, and what stands after each: ``BESIDE``, ``APART`` or ``BOUNDARY``."""

    texts: tuple[str, ...]
    gaps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: Words) -> Words:
        return Words(self.texts + other.texts, self.gaps + other.gaps)


NOTHING = Words((), ())


def folded(text: str) -> str:
    """Lower case, without accents, of one Unicode form."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(_FOLDED))
    return unicodedata.normalize("NFC", _ACCENTS.sub("", plain)).translate(_FOLDED)


def words_of_text(text: str) -> Words:
    """Words of plain text, brackets and all taken as marks."""
    texts: list[str] = []
    gaps: list[int] = []
    for piece in _PIECES.finditer(folded(text)):
        kind, found = piece.lastgroup, piece.group()
        if kind != "mark" or unicodedata.category(found) == "So":  # pictographs are written like words
            texts.append(found)
            gaps.append(BESIDE)
        elif texts and found not in _SILENT:
            gaps[-1] = max(gaps[-1], BOUNDARY if found in _COMMAS else APART)
    return Words(tuple(texts), tuple(gaps))


def words_of_prompt(prompt: str) -> Words:
    """Words of a prompt without its weights and brackets."""
    return words_of_text(" ".join(span.text for span in parse_weights(prompt)))


def words_of_ids(ids: Iterable[int]) -> Words:
    """Words of token ids without specials, chunks joined; an id that is no text, as -1, is a boundary."""
    vocabulary = _vocabulary()
    text = "".join(vocabulary[i] if 0 <= i < len(vocabulary) else _COMMAS[0] + _END for i in ids)
    letters = _letters()
    written = [bytes(letters.get(c, 0x2C) for c in word).decode("utf-8", "replace") for word in text.split(_END)]
    return words_of_text(" ".join(written))


@lru_cache(maxsize=1)
def _vocabulary() -> Sequence[str]:
    """Piece of every id; all CLIP text encoders of Stable Diffusion 1, 2 and XL share them. The last two are marks."""
    pieces = json.loads((WEIGHTS / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    ordered = sorted(pieces, key=pieces.__getitem__)
    return [*ordered[:-2]]


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letter that stands for each byte in the vocabulary (byte-level BPE, as published with GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}

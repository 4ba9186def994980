"""Misspellings are never the word, never empty, the same for the same seed, and kind to case and Unicode."""

from __future__ import annotations

import unicodedata

import pytest

from erasure_core.errors import BadInput
from erasure_core.evaluation.misspell import KINDS, misspell, misspellings

WORDS = [
    "circle", "Van Gogh", "SNOOPY", "a", "aa", "AA", "mm", "x y", "naïve", "cafe\u0301", "Zoë", "Straße", "İstanbul",
    "ﬁsh", "猫", "слон", "1", "77", "...", "👩‍🚀", "❤️", "🎨🎨", "O'Neill", "ring-tailed", "  star ", "e\u0301", "ß",
]  # fmt: skip


def _same(first: str, second: str) -> bool:
    return (
        unicodedata.normalize("NFC", first).casefold().split()
        == unicodedata.normalize("NFC", second).casefold().split()
    )


@pytest.mark.parametrize("word", WORDS)
def test_every_kind_changes_every_word(word):
    for kind in (None, *KINDS):
        for seed in range(25):
            made = misspell(word, seed, kind)
            assert made == misspell(word, seed, kind), "deterministic by seed"
            assert made.strip()
            assert not _same(made, word)
            made.encode("utf-8")


@pytest.mark.parametrize("word", WORDS)
def test_marks_and_joiners_stay_with_their_character(word):
    for seed in range(40):
        made = misspell(word, seed)
        for i, char in enumerate(made):
            if unicodedata.combining(char) or char in "\u200d\ufe0f":
                assert i > 0
                assert not made[i - 1].isspace()
                assert made[i - 1] != "-" or "-" in word
        assert "\u200d\u200d" not in made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("spacing", "hyphen")])
def test_case_is_kept(kind):
    for seed in range(30):
        assert misspell("SNOOPY", seed, kind).isupper()
        assert misspell("snoopy", seed, kind).islower()
        made = misspell("Snoopy", seed, kind)
        assert made[1:] == made[1:].lower()
        assert made[0].isupper() or not made[0].isalpha()


def test_each_kind_does_what_it_says():
    for seed in range(30):
        assert len(misspell("circle", seed, "drop")) == 5
        assert sorted(misspell("circle", seed, "swap")) == sorted("circle")
        doubled = misspell("circle", seed, "double")
        assert any(doubled == "circle"[: i + 1] + "circle"[i:] for i in range(6))
        assert misspell("circle", seed, "spacing").replace(" ", "") == "circle"
        assert misspell("circle", seed, "hyphen").replace("-", "") == "circle"
        neighbour, glyph, leet = (misspell("circle", seed, kind) for kind in ("neighbour key", "homoglyph", "leet"))
        for made in (neighbour, glyph, leet):
            assert sum(a != b for a, b in zip(made, "circle", strict=True)) == 1
        assert neighbour.isascii()
        assert not glyph.isascii()
        assert any(char.isdigit() for char in leet)


def test_a_list_has_no_double_and_takes_the_kinds_in_turn():
    made = misspellings("circle", 20, seed=4)
    assert len(made) == len(set(made)) == 20
    assert made == misspellings("circle", 20, seed=4)
    assert made != misspellings("circle", 20, seed=5)
    assert len(made[0]) == 5, "the first kind drops a letter"
    assert 1 <= len(misspellings("猫", 50)) < 50


def test_refusals():
    with pytest.raises(BadInput, match="empty"):
        misspell("   ")
    with pytest.raises(BadInput, match="neighbour key"):
        misspell("circle", 0, "shout")

"""Prompt syntax: weights in brackets, escapes, and chunks of 75 tokens."""

import pytest

from erasure_core.errors import BadInput
from erasure_core.prompts import CHUNK, MAX_CHUNKS, Span, chunk, escape, parse_weights

BOS, EOS, PAD = 1, 2, 0

CASES = [
    ("", []),
    ("a red circle", [("a red circle", 1.0)]),
    ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
    ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
    ("((red))", [("red", 1.1 * 1.1)]),
    ("((red:1.5))", [("red", 1.5)]),
    ("((red:1.5) moon)", [("red", 1.5), (" moon", 1.1)]),
    ("((red):1.5)", [("red", 1.5 * 1.1)]),
    ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 0.5), (" c", 2.0)]),
    ("(red:-1)", [("red", -1.0)]),
    ("(red:0)", [("red", 0.0)]),
    ("(red:1e1)", [("red", 10.0)]),
    ("(a:b:1.2)", [("a:b", 1.2)]),
    ("(a: b)", [("a: b", 1.1)]),
    ("(:1.3)", [(":1.3", 1.1)]),
    ("(red: 1.3 )", [("red", 1.3)]),
    ("[red]", [("[red]", 1.0)]),
    ("{red|blue}", [("{red|blue}", 1.0)]),
    (r"\(red\)", [("(red)", 1.0)]),
    (r"(\(red\):1.2)", [("(red)", 1.2)]),
    (r"smile :\)", [("smile :)", 1.0)]),
    ("\\\\(red", [("\\(red", 1.0)]),
    ("()", []),
    ("(())", []),
    ("(red", [("(red", 1.0)]),
    ("red)", [("red)", 1.0)]),
    (")red(", [(")red(", 1.0)]),
    ("((red)", [("(red", 1.1)]),
    ("(red)) (blue)", [("red", 1.1), (") (blue)", 1.0)]),
    ("(🔴:1.3) 円", [("🔴", 1.3), (" 円", 1.0)]),
    ("a\n(b)", [("a\n", 1.0), ("b", 1.1)]),
]


def spans_of(text):
    return [(span.text, span.weight) for span in parse_weights(text)]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[repr(text) for text, _ in CASES])
def test_brackets_and_weights(text, expected):
    assert spans_of(text) == [(word, pytest.approx(weight)) for word, weight in expected]


def test_weights_without_brackets_are_exactly_one():
    assert [weight for _, weight in spans_of("a (b) c:1.5")] == [1.0, 1.1, 1.0]


@pytest.mark.parametrize("text", ["(a (b:2))", "plain", ":)", "((", r"a\b", "(a:1.3)", "🔴 (円)"])
def test_escaped_text_is_one_literal_stretch_of_weight_one(text):
    assert spans_of(escape(text)) == [(text, 1.0)]


@pytest.mark.parametrize("text", ["(" * 10_000, ")" * 10_000, ")(" * 5_000])
def test_ten_thousand_unbalanced_brackets_stay_text(text):
    assert spans_of(text) == [(text, 1.0)]


def test_deep_nesting_multiplies_without_exhausting_the_stack():
    assert spans_of("(" * 3_000 + "a" + ")" * 3_000) == [("a", pytest.approx(1.1**3_000, rel=1e-9))]


def count_tokens(text):
    """A tokenizer of one number per word: 10, 11, ..."""
    return [10 + i for i, _ in enumerate(text.split())]


def lay_out(*stretches):
    """Chunks of stretches given as (words, weight)."""
    return chunk([Span("w " * words, weight) for words, weight in stretches], count_tokens, BOS, EOS, PAD)


def contents(chunks):
    """How many content tokens each chunk holds, checking the frame on the way."""
    sizes = []
    for ids, weights, eos in zip(chunks.ids, chunks.weights, chunks.eos, strict=True):
        assert len(ids) == len(weights) == CHUNK == 77
        assert ids[0] == BOS
        assert ids[eos] == EOS
        assert ids[eos + 1 :] == (PAD,) * (76 - eos)
        assert (weights[0], weights[eos:]) == (1.0, (1.0,) * (77 - eos))
        sizes.append(eos - 1)
    return sizes


def test_an_empty_prompt_is_one_chunk_of_specials():
    assert contents(lay_out()) == contents(lay_out((0, 1.3))) == [0]


@pytest.mark.parametrize(
    ("stretches", "sizes"),
    [
        ([75], [75]),
        ([76], [75, 1]),
        ([200], [75, 75, 50]),
        ([70, 5], [75]),
        ([70, 6], [70, 6]),  # fewer than eight tokens are never split
        ([70, 7], [70, 7]),
        ([70, 8], [75, 3]),  # eight are
        ([75, 8], [75, 8]),
        ([74, 7, 60, 30], [74, 75, 22]),
        ([150, 1], [75, 75, 1]),
    ],
)
def test_chunks_of_75_keep_short_stretches_together(stretches, sizes):
    assert contents(lay_out(*[(words, 1.0) for words in stretches])) == sizes


def test_each_token_keeps_the_weight_of_its_stretch():
    chunks = lay_out((70, 1.2), (8, 0.5))
    assert chunks.weights[0][1:76] == (1.2,) * 70 + (0.5,) * 5
    assert chunks.weights[1][1:4] == (0.5,) * 3
    assert chunks.ids[0][70:76] == (79, 10, 11, 12, 13, 14)
    assert chunks.ids[1][1:4] == (15, 16, 17)


def test_the_end_is_the_first_end_token_even_if_the_text_spells_one():
    chunks = chunk([Span("x", 1.0)], lambda _: [10, EOS, 11], BOS, EOS, PAD)
    assert chunks.eos == (2,)


def test_ten_thousand_words_are_refused_with_the_limit_and_the_beginning():
    with pytest.raises(BadInput, match=r"longer than 2,400 tokens .*'w w w") as caught:
        lay_out((10_000, 1.0))
    assert "Shorten it" in str(caught.value)
    assert contents(lay_out((75 * MAX_CHUNKS, 1.0))) == [75] * MAX_CHUNKS

"""The host's own prompt parser and tokenizer beside ours, on random bracket strings."""

import random

import pytest

from erasure_core.prompts import chunk, parse_weights

PIECES = [
    "(",
    ")",
    ":1.3",
    ":0.5",
    ":-1",
    ": 2 ",
    ":x",
    "\\(",
    "\\)",
    " red",
    "circle ",
    ",",
    "🔴",
    "a long phrase here ",
]
PIECES += ["(", ")", "[", "]", "\n", "  ", "supercalifragilistic", ":", "\\", "1.2", "é", "円"]
STRINGS = 300


def random_prompts():
    """Half of them short, the others up to five chunks long."""
    rng = random.Random(7)
    prompts = ["", " ", "()", "((a", "a) (b)", "(a:1.1) " * 60, "word " * 76, "(" * 200 + "a" + ")" * 200]
    while len(prompts) < STRINGS:
        pieces = rng.choices(PIECES, k=rng.choice((3, 6, 12, 25, 300)))
        prompts.append("".join(pieces))
    return prompts


@pytest.fixture(scope="module")
def prompts():
    return random_prompts()


@pytest.fixture
def theirs(prompts, in_comfy):
    return in_comfy("prompt_tokens", prompts=prompts)


@pytest.fixture
def tokenize(plain):
    return plain.content


def test_the_same_stretches_ids_and_weights(prompts, theirs, tokenize):
    longest = 0
    for prompt, (spans, chunks) in zip(prompts, theirs, strict=True):
        ours = parse_weights(prompt)
        assert [[s.text, s.weight] for s in ours] == spans, prompt
        for name, pad in (("eos", 49407), ("zero", 0)):
            laid = chunk(ours, tokenize, 49406, 49407, pad)
            expected = chunks[name]
            assert [list(ids) for ids in laid.ids] == [[token for token, _ in part] for part in expected], prompt
            assert [list(w) for w in laid.weights] == [[weight for _, weight in part] for part in expected], prompt
            longest = max(longest, len(expected))
    assert longest >= 4, "the strings must reach several chunks"

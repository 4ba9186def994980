"""Rows of T5, which has no start token and chunks of any length, for every selector."""

import pytest
import torch

from erasure_core.embeddings import Pair, encode_texts, select_pairs, select_rows
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta, cross_attention_names
from erasure_core.errors import BadInput
from erasure_core.gates import words_of
from erasure_core.models import Encoded

IDS = {"": (), "a cat": (3, 1712), "a dog": (3, 1782), "cat": (1712,), "dog": (1782,), "a big dog": (3, 600, 1782)}
STOP, PAD, LENGTH = 1, 0, 8  # T5 marks the end by 1 and fills up with 0
LONG = "a cat " * 6


class T5Layout:
    """Texts in the layout of Flux's encoder; each row tells its prompt and position."""

    spaces = {"t5": 4}  # noqa: RUF012

    def encode(self, prompts):
        ids = [(*(IDS.get(p) or (3, 1712) * 6 if p else ()), STOP) for p in prompts]
        lengths = [max(LENGTH, len(own)) for own in ids]
        longest = max(lengths)
        tokens = torch.tensor([[*own, *[PAD] * (longest - len(own))] for own in ids])
        hidden = torch.zeros(len(ids), longest, 4)
        for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            for position in range(length):
                hidden[i, position] = torch.tensor([len(prompt), position, float(tokens[i, position]), 1.0])
        return Encoded(
            hidden,
            {"t5": tokens[:, None]},
            torch.tensor([[len(own) - 1] for own in ids]),
            extras={"chunks": torch.ones(len(ids), dtype=torch.long), "rows": torch.tensor(lengths)},
            lead=0,
            words=tuple((320, 2368)[: len(p.split())] for p in prompts),
        )


def positions(selector, prompt="a cat", anchor="a big dog"):
    pair = Pair(prompt, anchor, prompt.split()[-1] if prompt else "", anchor.split()[-1])
    found = select_pairs(T5Layout(), [pair], selector)
    return [(int(e[1]), int(a[1])) for e, a in zip(found.erase, found.anchors, strict=True)]


def test_texts():
    texts = encode_texts(T5Layout(), ["a cat", LONG, ""])
    short, long, empty = texts["a cat"], texts[LONG], texts[""]
    assert (len(short.rows), short.ids, short.eos) == (LENGTH, (3, 1712, 1, 0, 0, 0, 0, 0), 2)
    assert (len(long.rows), long.eos, long.start_of_last_chunk) == (13, 12, 0)
    assert short.said[:, 1].tolist() == [0, 1, 2] and empty.said[:, 1].tolist() == [0]
    assert (short.last((1712,)), short.last((3, 1712)), short.last((5,)), empty.last(())) == (1, 1, 1, 0)


def test_selectors():
    assert positions("LAST") == [(1, 2)]
    assert positions("LAST", "cat", "dog") == [(0, 0)]
    assert positions("EOT") == [(2, 3)]
    assert positions("LAST+EOT") == [(1, 2), (2, 3)]
    assert positions("TAIL") == [(1 + n, 2 + n) for n in range(6)]
    assert positions("ALL77") == [(n, n) for n in range(LENGTH)]
    assert positions("EOT+PADS") == [(2, 3), (7, 7)]
    assert positions("SURR") == [(0, 0), *((2 + n, 3 + n) for n in range(5))]
    assert len(select_rows(T5Layout(), [""], "ALL77")) == LENGTH


def test_words_are_clips():
    assert words_of(T5Layout().encode(["a cat", "cat"])) == [(320, 2368), (320,)]
    taken = T5Layout().encode(["a cat", "cat", LONG]).take([1, 0])
    assert taken.words == ((320,), (320, 2368)) and taken.lead == 0 and taken.extras["rows"].tolist() == [8, 8]


def test_a_map_is_an_edit_of_the_one_matrix_that_reads_text():
    torch.manual_seed(1)
    reader = "transformer.context_embedder.weight"
    weights = {"transformer.x_embedder.weight": torch.randn(6, 3), reader: torch.randn(6, 4)}
    down, up = torch.randn(2, 4), torch.randn(4, 2)
    erasure = Erasure(maps={"t5": EmbeddingMap("t5", (MapFactor(down, up),))}, base={"family": "flux"})
    (delta,) = erasure.deltas(weights).values()
    assert isinstance(delta, WeightDelta) and delta.name == reader
    x = torch.randn(9, 4, dtype=torch.float64)
    mapped = x + x @ down.double().T @ up.double().T
    edited = weights[reader].double() + delta.dense().double()
    assert torch.allclose(x @ edited.T, mapped @ weights[reader].double().T, rtol=1e-5, atol=1e-5)
    assert cross_attention_names(weights) == [reader]
    with pytest.raises(BadInput, match="keys and values cannot be changed apart"):
        cross_attention_names(weights, "v")

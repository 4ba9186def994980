"""Encoding on the bundled model against its text encoder called directly: chunks, weights, cache, refusals."""

import pytest
import torch

from erasure_core.encoding import TextEncoder, encode_text
from erasure_core.errors import BadInput

LONG = "a red circle on a white background, " * 25  # 200 tokens: 8 each


def test_a_prompt_is_the_encoders_last_layer_after_its_norm(demo, plain):
    prompts = ["", "a red circle", "an azure pentagram with a polka dot pattern 🔴"]
    encoded = demo.encode(prompts)
    for i, prompt in enumerate(prompts):
        assert encoded.tokens["clip_l"][i, 0].tolist() == plain.ids(prompt)
        assert encoded.eos[i].tolist() == [len(plain.content(prompt)) + 1]
        torch.testing.assert_close(encoded.hidden[i], plain.rows(prompt), rtol=0, atol=1e-5)


def test_200_tokens_are_chunks_encoded_by_themselves(demo, plain):
    content = plain.content(LONG)
    assert len(content) == 200
    chunks = [plain.frame(content[start : start + 75]) for start in (0, 75, 150)]
    encoded = demo.encode([LONG])
    assert encoded.tokens["clip_l"][0].tolist() == chunks
    assert encoded.eos.tolist() == [[76, 76, 51]]
    torch.testing.assert_close(encoded.hidden[0], torch.cat([plain.encode(c) for c in chunks]), rtol=0, atol=1e-5)


def test_short_prompts_beside_long_ones_are_repeated_whole(demo, plain):
    encoded = demo.encode(["a red circle", LONG])
    assert encoded.hidden.shape == (2, 3 * 77, 64)
    assert encoded.extras["chunks"].tolist() == [1, 3]
    alone = demo.encode(["a red circle"]).hidden[0]
    assert torch.equal(encoded.hidden[0], torch.cat([alone] * 3))
    assert torch.equal(encoded.hidden[1], demo.encode([LONG]).hidden[0])


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.3, -1.0, 2.5])
def test_a_weight_moves_rows_away_from_the_empty_prompt(demo, plain, weight):
    encoded = demo.encode([f"a (red:{weight}) circle (moon)"])
    content = [*plain.content("a"), *plain.content("red"), *plain.content("circle"), *plain.content("moon")]
    rows, empty = plain.encode(plain.frame(content)), plain.rows("")
    weights = [1.0, 1.0, weight, 1.0, 1.1] + [1.0] * 72
    expected = [weights[k] * rows[k] + (1 - weights[k]) * empty[k] for k in range(77)]
    assert encoded.tokens["clip_l"][0, 0].tolist() == plain.frame(content)
    torch.testing.assert_close(encoded.hidden[0], torch.stack(expected), rtol=0, atol=1e-5)
    unweighted = demo.encode(["a red circle moon"]).hidden[0]
    for k in range(77):
        assert torch.equal(encoded.hidden[0, k], unweighted[k]) == (weights[k] == 1.0)


def test_weights_in_a_later_chunk_use_the_same_positions_of_the_empty_prompt(demo, plain):
    encoded = demo.encode([LONG[: 36 * 10].strip() + " (moon:1.5)"])
    content = [*plain.content(LONG[: 36 * 10]), *plain.content("moon")]
    assert len(content) == 81
    row = plain.encode(plain.frame(content[75:]))[6]
    expected = 1.5 * row - 0.5 * plain.rows("")[6]
    torch.testing.assert_close(encoded.hidden[0, 77 + 6], expected, rtol=0, atol=1e-5)


def test_weight_nan_or_infinite_is_refused(demo):
    for weight in ("nan", "inf", "1e999"):
        with pytest.raises(BadInput, match="weight"):
            demo.encode([f"a (red:{weight}) circle"])


def test_escaped_brackets_reach_the_encoder(demo, plain):
    assert demo.encode([r"a \(red\) circle"]).tokens["clip_l"][0, 0].tolist() == plain.ids("a (red) circle")


def test_unbalanced_brackets_emoji_and_ten_thousand_brackets_encode_or_say_why(demo, plain):
    assert demo.encode(["((red"]).tokens["clip_l"][0, 0].tolist() == plain.ids("((red")
    assert torch.isfinite(demo.encode(["🔴🟦 a 円"]).hidden).all()
    with pytest.raises(BadInput, match="longer than 2,400 tokens"):
        demo.encode(["( " * 10_000])


def test_ten_thousand_words_are_refused(demo):
    with pytest.raises(BadInput, match="longer than 2,400 tokens"):
        demo.encode(["circle " * 10_000])


@pytest.mark.parametrize("wrong", [[None], [b"a circle"], [3]])
def test_what_is_not_text_is_refused(demo, wrong):
    with pytest.raises(BadInput, match="must be text"):
        demo.encode(wrong)


def test_no_prompt_is_refused(demo):
    with pytest.raises(BadInput, match="no prompt"):
        demo.encode([])


@pytest.fixture
def counted(fresh):
    """A model whose text encoder records how many chunks each call gets."""
    calls = []
    fresh.pipe.text_encoder.register_forward_hook(lambda module, args, out: calls.append(len(out[0])))
    return fresh, calls


def test_every_distinct_chunk_is_encoded_once(counted):
    model, calls = counted
    model.encode(["a red circle", "a blue square", "a red circle"])
    assert calls == [2]
    model.encode(["a blue square", "a red circle"])
    assert calls == [2]
    model.encode(["a (red) circle"])  # the ids are known, only the empty prompt is new
    model.encode(["", "(a red circle:1.7)"])
    assert calls == [2, 1]
    half = "circle " * 75
    model.encode([half, half * 3])
    assert calls == [2, 1, 1]


def test_many_chunks_are_encoded_in_batches(counted):
    model, calls = counted
    model.encode([f"circle {i}" for i in range(70)])
    assert sum(calls) == 70
    assert len(calls) == 2


def test_a_changed_weight_empties_the_cache(counted, demo):
    model, calls = counted
    before = model.encode(["a red circle"]).hidden.clone()
    with torch.no_grad():
        model.pipe.text_encoder.final_layer_norm.bias[3] += 0.5
    after = model.encode(["a red circle"]).hidden
    assert calls == [1, 1]
    moved = torch.zeros(64)
    moved[3] = 0.5
    torch.testing.assert_close(after - before, moved.expand_as(before), rtol=0, atol=1e-5)
    assert model.text_fingerprint != demo.text_fingerprint


def test_two_exchanged_token_vectors_empty_the_cache(counted, plain):
    model, calls = counted
    red, blue = plain.content("red")[0], plain.content("blue")[0]
    before = model.encode(["a red circle", "a blue circle"]).hidden.clone()
    with torch.no_grad():
        table = model.pipe.text_encoder.embeddings.token_embedding.weight
        table[[red, blue]] = table[[blue, red]].clone()
    after = model.encode(["a red circle", "a blue circle"]).hidden
    assert calls == [2, 2]
    torch.testing.assert_close(after, before.flip(0), rtol=0, atol=1e-5)


def test_what_a_caller_does_to_the_result_does_not_reach_the_cache(fresh):
    first = fresh.encode(["a red circle"]).hidden
    kept = first.clone()
    first.zero_()
    assert torch.equal(fresh.encode(["a red circle"]).hidden, kept)


def test_the_cache_forgets_the_oldest(plain):
    runs = []

    def run(ids):
        runs.append(ids.tolist())
        return ids.float().unsqueeze(-1), None

    encoder = TextEncoder("x", plain.content, 49406, 49407, 49407, run, lambda: "same", limit=2)
    for word in ("red", "blue", "red", "green", "red", "blue"):
        encode_text(encoder, [word])
    seen = [ids[0][1] for ids in runs]
    assert seen == [plain.content(word)[0] for word in ("red", "blue", "green", "blue")]


def test_take_picks_prompts_in_order(demo):
    encoded = demo.encode(["a red circle", LONG, ""])
    taken = encoded.take([2, 0])
    assert torch.equal(taken.hidden, encoded.hidden[[2, 0]])
    assert torch.equal(taken.tokens["clip_l"], encoded.tokens["clip_l"][[2, 0]])
    assert taken.eos.tolist() == encoded.eos[[2, 0]].tolist()
    assert taken.extras["chunks"].tolist() == [1, 1]

"""Row selectors on the bundled model, each against positions found here with the tokenizer alone."""

import pytest
import torch

from erasure_core.embeddings import Origin, Pair, encode_texts, select_pairs, select_rows
from erasure_core.errors import BadInput

EOS = 49407
LONG = "a red circle on a white background, " * 25  # 200 tokens
PAIRS = [
    ("circle", "square"),
    ("a red circle", "a red square"),
    ("polka dot", "striped"),
    ("a picture of a circle", "a picture of a plus sign"),
    ("unquestionably tangerine pentagram", "shape"),
    ("circle", ""),
    ("🔴 円 circle", "art"),
]


def chosen(model, selector, *pairs):
    return select_pairs(model, [Pair(old, new) for old, new in pairs], selector)


def close(rows, expected):
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_last_is_the_last_words_token_and_the_start_token_of_an_empty_text(demo, plain, old, new):
    rows = chosen(demo, "LAST", (old, new))
    i, j = plain.last(old), plain.last(new)
    assert (j == 0) == (new == "")
    close(rows.erase, plain.rows(old)[i : i + 1])
    close(rows.anchors, plain.rows(new)[j : j + 1])
    assert rows.origins == (Origin(old, i, plain.ids(old)[i]),)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_tail_runs_from_the_last_word_to_the_end_of_the_shorter_side(demo, plain, old, new):
    rows = chosen(demo, "TAIL", (old, new))
    i, j = plain.last(old), plain.last(new)
    count = min(77 - i, 77 - j)
    assert len(rows.erase) == count
    close(rows.erase, plain.rows(old)[i : i + count])
    close(rows.anchors, plain.rows(new)[j : j + count])
    assert [origin.position for origin in rows.origins] == list(range(i, i + count))


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_all_77_pairs_position_by_position(demo, plain, old, new):
    rows = chosen(demo, "ALL77", (old, new))
    close(rows.erase, plain.rows(old))
    close(rows.anchors, plain.rows(new))
    assert [origin.token for origin in rows.origins] == plain.ids(old)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_eot_is_the_first_end_token_by_the_tokenizer_not_by_words(demo, plain, old, new):
    rows = chosen(demo, "EOT", (old, new))
    assert [origin.token for origin in rows.origins] == [EOS]
    i, j = plain.ids(old).index(EOS), plain.ids(new).index(EOS)
    assert rows.origins[0].position == i
    close(rows.erase, plain.rows(old)[i : i + 1])
    close(rows.anchors, plain.rows(new)[j : j + 1])


def test_some_prompt_has_more_tokens_than_words(plain):
    assert any(plain.last(old) != len(old.split()) for old, _ in PAIRS)


def test_eot_and_pads_weighs_the_last_padding_row_for_all_of_them(demo, plain):
    rows = chosen(demo, "EOT+PADS", ("a red circle", "square"))
    assert rows.weights.tolist() == [1.0, 77 - 5]
    assert [origin.position for origin in rows.origins] == [4, 76]
    close(rows.erase, plain.rows("a red circle")[[4, 76]])
    close(rows.anchors, plain.rows("square")[[2, 76]])


def test_eot_and_pads_of_a_full_chunk_is_the_end_alone(demo):
    full = "circle " * 75
    rows = chosen(demo, "EOT+PADS", (full, full))
    assert [origin.position for origin in rows.origins] == [76]
    assert rows.weights.tolist() == [1.0]


def surrounding(old, new):
    """MACE's alignment of two lists of 77 ids: common beginning, then common ending and on to the shorter end."""
    old_end, new_end = old.index(EOS), new.index(EOS)
    begin = 0
    while begin < min(old_end, new_end) and old[begin] == new[begin]:
        begin += 1
    i, j = old_end, new_end
    while i - 1 >= begin and j - 1 >= begin and old[i - 1] == new[j - 1]:
        i, j = i - 1, j - 1
    count = min(77 - i, 77 - j)
    return [(k, k) for k in range(begin)] + [(i + k, j + k) for k in range(count)]


@pytest.mark.parametrize(
    ("old", "new", "subject"),
    [
        ("a picture of a circle on white", "a picture of a square on white", [5]),
        ("a polka dot circle on white", "a solid circle on white", [2, 3]),
        ("circle", "square", [1]),
        ("circle on blue", "a plus sign on blue", [1]),
        ("a circle", "a circle on white", []),
        ("a red red circle", "a red circle", [3]),
        ("a circle", "a circle", []),
    ],
)
def test_surrounding_leaves_out_the_words_that_differ(demo, plain, old, new, subject):
    rows = chosen(demo, "SURR", (old, new))
    positions = surrounding(plain.ids(old), plain.ids(new))
    assert [origin.position for origin in rows.origins] == [i for i, _ in positions]
    content = range(1, plain.last(old) + 1)
    assert [i for i in content if i not in {k for k, _ in positions}] == subject
    close(rows.erase, plain.rows(old)[[i for i, _ in positions]])
    close(rows.anchors, plain.rows(new)[[j for _, j in positions]])


def test_a_phrase_in_the_middle_is_found_where_it_stands_last(demo, plain):
    prompt, anchor = "a circle beside a polka dot circle on white", "a circle beside a shape on white"
    rows = select_pairs(demo, [Pair(prompt, anchor, "polka dot", "shape")], "LAST")
    content = plain.content(prompt)
    phrase = plain.content("polka dot")
    start = max(k for k in range(len(content)) if content[k : k + len(phrase)] == phrase)
    i = start + len(phrase)  # one further for the start token
    j = 1 + plain.content(anchor).index(plain.content("shape")[0])
    assert rows.origins[0].position == i
    close(rows.erase, plain.rows(prompt)[i : i + 1])
    close(rows.anchors, plain.rows(anchor)[j : j + 1])


def test_the_last_of_several_mentions_counts(demo, plain):
    rows = select_pairs(demo, [Pair("a circle in a circle frame", "", "circle")], "LAST")
    assert rows.origins[0].position == 5
    assert rows.origins[0].token == plain.content("circle")[0]


def test_a_phrase_that_is_not_there_means_the_last_word(demo, plain):
    rows = select_pairs(demo, [Pair("a red moon", "", "circle")], "LAST")
    assert rows.origins[0].position == plain.last("a red moon")


def test_tail_of_a_phrase_in_the_middle_includes_what_follows(demo, plain):
    rows = select_pairs(demo, [Pair("a red circle on white", "a red square", "circle", "square")], "TAIL")
    assert [origin.position for origin in rows.origins] == list(range(3, 77))
    close(rows.anchors, plain.rows("a red square")[3:])


def test_long_prompts_use_their_last_chunk(demo, plain):
    content = plain.content(LONG)
    last = plain.frame(content[150:])
    rows = plain.encode(last)
    texts = encode_texts(demo, [LONG])[LONG]
    assert len(texts.ids) == 231
    assert (texts.eos, texts.start_of_last_chunk) == (154 + 51, 154)
    got = chosen(demo, "LAST", (LONG, "circle"))
    assert got.origins[0].position == 154 + 50
    close(got.erase, rows[50:51])
    got = chosen(demo, "EOT", (LONG, "circle"))
    assert got.origins == (Origin(LONG, 154 + 51, EOS),)
    close(got.erase, rows[51:52])
    assert len(chosen(demo, "TAIL", (LONG, LONG)).erase) == 27
    assert len(chosen(demo, "ALL77", (LONG, LONG)).erase) == 231
    assert len(chosen(demo, "ALL77", (LONG, "circle")).erase) == 77


def test_a_phrase_of_a_long_prompt_is_found_in_an_earlier_chunk(demo):
    prompt = "a polka dot moon, " + LONG
    rows = select_pairs(demo, [Pair(prompt, "", "polka dot")], "LAST")
    assert rows.origins[0].position == 3


def test_brackets_in_phrases_are_letters(demo, plain):
    rows = chosen(demo, "LAST", ("circle (round:1.5)", "square (x)"))
    assert rows.origins[0].token == plain.content("circle (round:1.5)")[-1]
    i = plain.last("circle (round:1.5)")
    close(rows.erase, plain.rows("circle (round:1.5)")[i : i + 1])


def test_rows_carry_weight_group_and_order_of_their_pair(demo):
    pairs = [Pair("circle", "square", weight=2.0, group=4), Pair("red", "blue", weight=0.5, group=1)]
    rows = select_pairs(demo, pairs, "EOT+PADS")
    assert rows.groups.tolist() == [4, 4, 1, 1]
    assert rows.weights.tolist() == [2.0, 2.0 * 74, 0.5, 0.5 * 74]
    assert rows.weights.dtype == torch.float64


def test_preserved_rows_are_the_prompts_own(demo, plain):
    rows = select_rows(demo, ["star", "moon", "star"], "LAST")
    expected = torch.stack([plain.rows(text)[plain.last(text)] for text in ("moon", "star")])
    close(rows, expected)
    close(select_rows(demo, [""], "ALL77"), plain.rows(""))


def test_an_unknown_selector_lists_the_known_ones(demo):
    with pytest.raises(BadInput, match=r"'FIRST'.*LAST, LAST\+EOT, TAIL, ALL77, MATCHED, SURR, EOT, EOT\+PADS, POOLED"):
        chosen(demo, "FIRST", ("circle", "square"))


def test_pooled_needs_a_model_that_has_it(demo):
    with pytest.raises(BadInput, match="no pooled text vector"):
        chosen(demo, "POOLED", ("circle", "square"))


def test_no_pair_is_refused(demo):
    with pytest.raises(BadInput, match="no concept"):
        select_pairs(demo, [], "LAST")


def test_last_and_end_edits_the_word_and_the_first_end_of_text(demo):
    rows = select_pairs(demo, [Pair("a red circle", "a red square", "circle", "square")], "LAST+EOT")
    assert [origin.position for origin in rows.origins] == [3, 4]
    assert rows.origins[1].token == 49407
    last = select_pairs(demo, [Pair("a red circle", "a red square", "circle", "square")], "LAST")
    end = select_pairs(demo, [Pair("a red circle", "a red square", "circle", "square")], "EOT")
    assert torch.equal(rows.erase, torch.cat([last.erase, end.erase]))
    assert torch.equal(rows.anchors, torch.cat([last.anchors, end.anchors]))

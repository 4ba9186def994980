"""RealEra's closed form against exact expectations in a plain loop, its acceptance tests, and our promises."""

import json

import pytest
import realera_reference as published
import torch
from method_checks import (
    assert_off_is_off_and_on_is_on,
    assert_order_is_nothing_and_the_recipe_everything,
    assert_published,
)

from erasure_core.closed_form import erase, realera
from erasure_core.closed_form.neighbours import around, moments
from erasure_core.errors import BadInput

KEPT = ["a blue star", "moon", "ring"]
PLAIN = {"expand_prompts": False, "neighbours": "along", "protect": 0.0}


def last(plain, text):
    return plain.rows(text)[plain.last(text)].double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kept", [[], KEPT])
def test_the_published_sums_with_exact_expectations(demo, plain, kept, dtype):
    erasure = erase(demo, "circle | oval -> square\nheart -> star", "realera", preserve=kept, parity=True, exact=True)
    pairs = [("circle", "square"), ("oval", "square"), ("heart", "star")]
    pairs = [tuple(last(plain, word).to(dtype) for word in pair) for pair in pairs]
    rows = [last(plain, text).to(dtype) for text in kept]
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    assert_published(erasure, demo, lambda w: published.edit(w.to(dtype), pairs, rows, 0.5).double(), tolerance)


def test_everything_set(demo, plain):
    options = {"low": 0.3, "high": 0.7, "neighbour_scale": 0.4, "beyond_scale": 2.5, "preserve_scale": 3, "lamb": 0.1}
    erasure = erase(demo, "circle -> square", "realera", preserve=KEPT, parity=True, exact=True, **options)
    pairs, rows = [(last(plain, "circle"), last(plain, "square"))], [last(plain, text) for text in KEPT]
    assert_published(erasure, demo, lambda w: published.edit(w, pairs, rows, 0.1, 0.3, 0.7, 0.4, 2.5, 3))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (0.0, 0.5)])
def test_exact_expectations_are_what_draws_tend_to(low, high):
    row = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    x = published.drawn(row, low, high, 200_000)
    mean, square = moments(low, high)
    found = around(row, square, 1 - square)
    gram = x.T @ x / len(x)
    assert (found.T @ found - gram).norm() / gram.norm() < 0.01
    assert (x.mean(0) - mean * row).norm() / row.norm() < 0.01
    assert torch.allclose(found.T @ found, published.second_moment(row, low, high), atol=1e-12)


def test_a_word_that_is_found_goes_where_the_concept_goes_and_uce_leaves_it(demo, plain):
    """CF 6.4: at most a fifth of the way is left for a mined neighbour."""
    words = {"vocabulary": ["disc", "dog", "blue", "tree", "star"], "nearness": 0.8}
    ours = erase(demo, "circle -> square", "realera", preserve=KEPT, beyond_scale=0.1, **words)
    assert ours.recipe["options"]["vocabulary"] == {"found": {"circle": ["disc"]}}
    assert ours.gate["phrases"] == ["circle", "disc"]
    goal, row = last(plain, "square"), last(plain, "disc")
    t = ours.maps["clip_l"].matrix()
    assert (t @ row - goal).norm() / (row - goal).norm() < 0.2
    kept = erase(demo, "circle -> square", "realera", preserve=[*KEPT, "disc"], **words)
    assert kept.recipe["options"]["vocabulary"] == {"found": {"circle": []}}
    assert (kept.maps["clip_l"].matrix() @ row - goal).norm() / (row - goal).norm() > 0.2


def test_rows_at_right_angles_to_all_that_is_moved_stay(demo):
    t = erase(demo, "circle -> square", "realera", parity=True, neighbours="along").maps["clip_l"]
    down = t.factors[0].down.double()
    row = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    row = row - torch.linalg.lstsq(down.T, row[:, None]).solution[:, 0] @ down
    assert (t.matrix() @ row - row).norm() / row.norm() < 1e-5


def test_all_directions_alike_shrink_what_the_part_along_leaves(demo):
    """What the published neighbours do to a text that has nothing to do with the concept (CF 6.2)."""
    moved = {}
    for kind in ("along", "whole"):
        t = erase(demo, "circle -> square", "realera", parity=True, neighbours=kind, beyond_scale=0.0)
        moved[kind] = torch.linalg.matrix_rank(t.maps["clip_l"].matrix() - torch.eye(64), rtol=1e-3).item()
    assert moved["along"] == 1 and moved["whole"] > 40


def test_along_is_uce_with_more_weight_and_more_ridge(demo, plain):
    row = last(plain, "circle")
    square = (0.5**2 + 0.5 * 0.9 + 0.9**2) / 3
    ridge = 0.5 + float(row @ row) * (1 - 0.25 / 3) / 63
    ours = erase(demo, "circle -> square", "realera", parity=True, neighbours="along").maps["clip_l"].matrix()
    theirs = erase(demo, "circle -> square", parity=True, lamb=ridge, erase_scale=1 + square).maps["clip_l"].matrix()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, erase(demo, "circle -> square", parity=True).maps["clip_l"].matrix(), atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"parity": True}, {"neighbours": "words", "vocabulary": ["disc", "dog"]}])
def test_order_and_recipe(demo, options):
    lines = ["circle -> square", "heart | love -> star @ 2", "style: dotted -> art"]
    assert_order_is_nothing_and_the_recipe_everything(demo, "realera", lines, KEPT, **options)


def test_off_and_on(demo):
    assert_off_is_off_and_on_is_on(demo, erase(demo, "circle -> square", "realera"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbours": "all"}, "'neighbours' cannot be 'all'"),
        ({"low": 0.9, "high": 0.5}, r"'low' \(0.9\) must be below 'high' \(0.5\)"),
        ({"samples": 2.5}, "'samples'"),
        ({"vocabulary": 3}, "'vocabulary' cannot be 3. It takes a name or a file"),
        ({"vocabulary": "nowhere.json"}, "There is no vocabulary 'nowhere.json'. Ours are: .*words"),
        ({"vocabulary": {"wort": []}}, "A vocabulary is a JSON list of words"),
    ],
)
def test_bad_options_are_named(demo, options, words):
    with pytest.raises(BadInput, match=words):
        erase(demo, "circle -> square", "realera", **options)


def test_a_vocabulary_of_ones_own(demo, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["disc", "tree", "dog", "car"]))
    erasure = erase(demo, "circle -> square", "realera", vocabulary=str(path))
    assert erasure.recipe["options"]["vocabulary"] == {"found": {"circle": ["disc"]}}
    path.write_text('["disc",]')
    with pytest.raises(BadInput, match=r"mine.json is damaged in line 1, column \d+"):
        erase(demo, "circle -> square", "realera", vocabulary=str(path))
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(BadInput, match=r"mine.json is not a text file in UTF-8"):
        erase(demo, "circle -> square", "realera", vocabulary=str(path))


def test_our_words_are_words():
    words = json.loads((realera.TABLES / "words.json").read_text())["words"]
    assert len(words) == len(set(words)) > 300 and all(word == word.strip() != "" for word in words)

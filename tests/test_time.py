"""TIME against its published per-layer loop, and what is our own."""

import pytest
import time_reference as published
import torch
import uce_reference
from closed_form_support import assert_edited, same, single_precision_tolerance

from erasure_core import BadInput, erase
from erasure_core.embeddings import Pair, select_pairs

PAIRS = [("circle", "blue circle"), ("a circle", "an outline circle"), ("a red circle", "a big red striped circle")]


@pytest.mark.parametrize(("old", "new"), PAIRS)
@pytest.mark.parametrize("augment", [True, False])
def test_the_published_loop(demo, plain, old, new, augment):
    erasure = erase(demo, f"{old} -> {new}", "time", parity=True, exact=True, with_augs=augment)
    sequences = published.rows(plain, published.augmented(old, new) if augment else [(old, new)])
    assert_edited(erasure, demo, lambda w: uce_reference.edit(w, sequences, [], lamb=0.1))
    assert erasure.recipe["ridge"] == 0.1


def test_published_single_precision(demo, plain):
    erasure = erase(demo, "circle -> blue circle", "time", parity=True, exact=True)
    sequences = published.rows(plain, published.augmented("circle", "blue circle"))
    allowed = single_precision_tolerance(torch.cat([c for c, _ in sequences]), 0.1)

    def single(weight):
        return uce_reference.edit(weight, sequences, [], lamb=0.1, dtype=torch.float32)

    assert_edited(erasure, demo, single, tolerance=allowed)


def test_values_alone(demo, plain):
    erasure = erase(demo, "circle -> blue circle", "time", parity=True, exact=True, with_to_k=False, with_augs=False)
    sequences = published.rows(plain, [("circle", "blue circle")])
    assert erasure.applies == "v"
    assert_edited(erasure, demo, lambda w: uce_reference.edit(w, sequences, [], lamb=0.1), part="v")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("circle", "square", [0, 1, 2, 3]),
        ("a circle", "an octagon", [0, 1, 2, 3]),
        ("red circle", "circle", [0, 1, 1, 2]),
        ("circle", "blue circle", [0, 2, 3, 4]),
        ("a circle", "two blue squares", [0, 2, 3, 4]),
    ],
)
def test_words_without_counterpart_are_paired_from_the_end(demo, plain, old, new, expected):
    rows = select_pairs(demo, [Pair(old, new)], "MATCHED")
    goal = plain.rows(new)
    offset = expected[-1] - len(expected) + 1
    wanted = [*expected, *(min(i + offset, 76) for i in range(len(expected), 77))]
    torch.testing.assert_close(rows.anchors, goal[wanted], rtol=1e-5, atol=1e-5)
    assert len(rows.erase) == 77


def test_it_edits_what_uce_leaves_alone(demo, plain):
    """The padding after the words: TIME moves it, UCE of 2025 does not know it."""
    pad = plain.rows("circle")[40].double()
    moved = {}
    for method in ("time", "uce"):
        t = erase(demo, "circle -> square", method, parity=True).maps["clip_l"].matrix()
        goal = plain.rows("square")[40].double()
        moved[method] = ((t @ pad - goal).norm() / (pad - goal).norm()).item()
    assert moved["time"] < 0.5 < moved["uce"]


def test_ours_protects_the_empty_prompt(demo, plain):
    empty = plain.rows("").double()
    drift = []
    for parity in (True, False):
        t = erase(demo, "circle -> square", "time", parity=parity).maps["clip_l"].matrix()
        drift.append((empty @ (t - torch.eye(64)).T).norm().item())
    assert drift[1] < drift[0]


def test_without_anchor_neutral_words_stand_in(demo):
    assert same(erase(demo, "circle", "time"), erase(demo, "circle -> object", "time"))


@pytest.mark.parametrize("options", [{"lamb": -1}, {"with_to_k": "perhaps"}, {"epochs": 2}])
def test_bad_options(demo, options):
    with pytest.raises(BadInput, match=f"'{next(iter(options))}'"):
        erase(demo, "circle", "time", **options)

"""Closed-form CRCE against a plain loop of its weighted sums, its acceptance tests, and our promises."""

import json

import pytest
import torch
from method_checks import (
    assert_off_is_off_and_on_is_on,
    assert_order_is_nothing_and_the_recipe_everything,
    assert_published,
)

from erasure_core.closed_form import crce, erase
from erasure_core.closed_form.coreference import CERTAINTY, names_of
from erasure_core.concepts import Concept
from erasure_core.errors import BadInput

TABLE = {
    "concepts": {
        "Circle": {"coreferents": {"disc": "very high", "dot": 0.3}, "retains": {"ring": "high", "moon": "low"}},
        "heart": {"coreferents": {"valentine": "normal"}, "retains": {"circle": "high", "triangle": 1}},
    }
}


def weighted_loop(weight, erased, kept, ridge):
    """``W'`` from sums over (row, anchor, weight) and (row, weight), with one explicit inverse."""
    left, right = ridge * weight, ridge * torch.eye(weight.shape[1], dtype=weight.dtype)
    for source, goal, w in erased:
        left, right = left + w * torch.outer(weight @ goal, source), right + w * torch.outer(source, source)
    for row, w in kept:
        left, right = left + w * torch.outer(weight @ row, row), right + w * torch.outer(row, row)
    return left @ torch.linalg.inv(right)


def last(plain, text):
    return plain.rows(text)[plain.last(text)].double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_name_counts_by_its_certainty(demo, plain, dtype):
    options = {"alpha": 0.5, "beta": 2.0, "preserve_scale": 0.7, "lamb": 0.3, "table": TABLE, "protect": 0}
    lines = "circle -> square @ 2\nheart -> star"
    erasure = erase(demo, lines, "crce", preserve=["cross"], parity=True, exact=True, **options)
    erased = [("circle", "square", 2.0), ("disc", "square", 1.0), ("dot", "square", 0.3), ("heart", "star", 1.0)]
    erased += [("valentine", "star", 0.3)]
    kept = [("ring", 1.6), ("moon", 0.8), ("triangle", 2.0), ("cross", 0.7)]  # the circle is erased, so not kept
    rows = [(last(plain, c).to(dtype), last(plain, a).to(dtype), w) for c, a, w in erased]
    stay = [(last(plain, p).to(dtype), w) for p, w in kept]
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    assert_published(erasure, demo, lambda w: weighted_loop(w.to(dtype), rows, stay, 0.3).double(), tolerance)


def left_over(erasure, plain, name, anchor):
    t, row, goal = erasure.maps["clip_l"].matrix(), last(plain, name), last(plain, anchor)
    return float((t @ row - goal).norm() / (row - goal).norm())


def table(certainty=1.0):
    return {"concepts": {"circle": {"coreferents": {"dot": certainty}, "retains": {"ring": 0.8, "moon": 0.8}}}}


def test_more_certainty_never_leaves_more_of_a_coreferent(demo, plain):
    left = [
        left_over(erase(demo, "circle -> square", "crce", table=table(c)), plain, "dot", "square")
        for c in (0.01, 0.2, 0.6, 1.0)
    ]
    assert left == sorted(left, reverse=True) and left[-1] < 0.2 < left[0]
    without = erase(demo, "circle -> square")
    assert left_over(without, plain, "dot", "square") > left[-1], "plain UCE has never heard of it"


def test_more_beta_never_moves_the_retains_more(demo, plain):
    moved = []
    for beta in (0.0, 0.5, 1.0, 10.0):
        t = erase(demo, "circle -> square", "crce", table=table(), beta=beta).maps["clip_l"].matrix()
        moved.append(sum(float((t @ last(plain, w) - last(plain, w)).norm()) for w in ("ring", "moon")))
    assert moved == sorted(moved, reverse=True) and moved[-1] < moved[0] / 3


def test_a_name_that_was_not_told_follows_and_what_was_told_to_stay_moves_least(demo, plain):
    """Held-out names, in the text space."""
    told = {"concepts": {"red": {"coreferents": {"crimson": 1.0}, "retains": {"orange": 1.0, "pink": 1.0}}}}
    erasure = erase(demo, "red -> blue", "crce", table=told)
    t = erasure.maps["clip_l"].matrix()
    assert left_over(erasure, plain, "scarlet", "blue") < 0.2

    def moved(words):
        return [float((t @ last(plain, w) - last(plain, w)).norm() / last(plain, w).norm()) for w in words]

    assert max(moved(["orange", "pink"])) < 0.2 < min(moved(["cyan", "yellow"]))


def test_certainties_never_contradict_the_user():
    concepts = [Concept("circle", "square", aliases=("Disc",)), Concept("heart", "ring")]
    circle, heart = names_of(TABLE, concepts, ["valentine"], ["square", "ring"])
    assert circle.coreferents == {"dot": 0.3}
    assert circle.retains == {"ring": 0.8, "moon": 0.4}
    assert heart.coreferents == {} and heart.retains == {"triangle": 1.0}


def test_the_gate_knows_the_names(demo):
    erasure = erase(demo, "circle -> square", "crce", preserve=["star"], table=TABLE)
    assert erasure.gate == {"phrases": ["circle", "disc", "dot"], "neighbours": ["star", "moon", "ring"]}


@pytest.mark.parametrize("options", [{}, {"parity": True}, {"table": TABLE, "alpha": 0.5}])
def test_order_and_recipe(demo, options):
    lines = ["circle -> square", "heart | love -> star @ 2"]
    assert_order_is_nothing_and_the_recipe_everything(demo, "crce", lines, ["cross", "blue"], **options)


def test_off_and_on(demo):
    assert_off_is_off_and_on_is_on(demo, erase(demo, "circle -> square", "crce"))


def names(coreferents):
    return {"concepts": {"circle": {"coreferents": coreferents}}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "A table of coreferents looks like this"),
        ([], "A table of coreferents looks like this"),
        ({"concepts": {"circle": ["disc"]}}, "'circle' in the table needs 'coreferents' and 'retains'"),
        ({"concepts": {"circle": {"corefs": {}}}}, "'circle' in the table needs 'coreferents' and 'retains'"),
        (names(["disc"]), "need a certainty each"),
        (names({"disc": "sure"}), r"The certainty of 'disc' for 'circle' cannot be 'sure'. .* very high, high"),
        (names({"disc": 0}), "cannot be 0"),
        (names({"disc": True}), "cannot be True"),
        ({"concepts": {"heart": {}}}, r"no entry for 'circle'; it has heart\. Add one to a copy"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(demo, content, words):
    with pytest.raises(BadInput, match=words):
        erase(demo, "circle -> square", "crce", table=content)


def test_a_table_of_ones_own(demo, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(names({"dot": "low"})))
    made = erase(demo, "circle -> square", "crce", table=str(path))
    assert made.recipe["options"]["table"] == {"concepts": {"circle": {"coreferents": {"dot": 0.4}, "retains": {}}}}
    with pytest.raises(BadInput, match=r"There is no table of coreferents 'nowhere'\. Ours are: coreference"):
        erase(demo, "circle -> square", "crce", table="nowhere")


def test_our_table_is_sound():
    content = json.loads((crce.TABLES / "coreference.json").read_text(encoding="utf-8"))
    concepts = [Concept(name, "something else") for name in content["concepts"]]
    for concept in concepts:
        (own,) = names_of(content, [concept], [], [])
        assert own.coreferents and len(own.retains) >= 3
    assert set(CERTAINTY) == {"very high", "high", "normal", "low", "very low"}

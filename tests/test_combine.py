"""Several erasures in one file, and erasures solved again from their recipes."""

import dataclasses
import json

import pytest
import torch
from apply_support import NAME, picture, random_delta

from erasure_core import BadInput, Erasure, Membrane, NothingMatched, WrongFamily, apply, erase, load, save
from erasure_core.combine import combine
from erasure_core.erasure import WeightDelta
from erasure_core.join import erase_again


def as_stored(recipe):
    return json.loads(json.dumps(recipe))


def test_the_sum_does_what_all_of_them_do(demo, circle, heart):
    circle, heart = (dataclasses.replace(e, recipe={}, statistics={}) for e in (circle, heart))
    prompts = ["a red circle", "a blue heart", "a star"]
    with apply(demo, [Membrane(circle, gate="always"), Membrane(heart, strength=0.5, gate="always")]):
        separate = picture(demo, prompts)
    with apply(demo, Membrane(combine([(circle, 1.0), (heart, 0.5)]), gate="always")):
        together = picture(demo, prompts)
    assert (separate - together).abs().max() <= 1e-4  # the list adds up in an order of its own: other rounding
    assert not torch.equal(picture(demo, prompts), together)


def test_one_erasure_at_full_strength_is_itself(circle):
    assert combine([(circle, 1.0)]) is circle


def test_the_sum_survives_a_file_and_its_recipe_gives_it_again(demo, circle, heart, tmp_path):
    made = combine([(circle, 1.0), (heart, 0.5)])
    read = load(save(made, tmp_path / "both"))
    again = erase_again(demo, as_stored(read.recipe))
    for one in (read, again):
        for part in ("down", "up"):
            expected = getattr(made.maps["clip_l"].factors[0], part)
            assert torch.equal(getattr(one.maps["clip_l"].factors[0], part), expected)
    assert [c["target"] for c in read.recipe["concepts"]] == ["circle", "heart"]
    assert read.gate["phrases"] == ["circle", "heart"]


@pytest.mark.parametrize(
    ("concepts", "options"),
    [
        ("circle | disc -> square @ 2\n+ a red square", {}),
        ("style: striped", {"lamb": 0.1, "expand_prompts": False}),
        ("circle", {"parity": True}),
        ("circle", {"parity": True, "generation": "2023"}),
        ("circle", {"mode": "moderate"}),
    ],
)
def test_a_recipe_gives_the_same_erasure_bit_by_bit(demo, concepts, options):
    made = erase(demo, concepts, **options)
    again = erase_again(demo, as_stored(made.recipe))
    assert torch.equal(made.maps["clip_l"].matrix(), again.maps["clip_l"].matrix())
    assert again.recipe == made.recipe and again.gate == made.gate


def test_a_membrane_that_has_only_its_recipe_is_solved_when_applied(demo, circle):
    with apply(demo, Membrane(circle, gate="always")):
        expected = picture(demo)
    lost = Membrane(Erasure(recipe=as_stored(circle.recipe), gate=dict(circle.gate)), gate="words", name="lost")
    with apply(demo, lost) as applied:
        assert torch.equal(picture(demo), expected)
        assert "the file of 'lost' is missing: solved again" in applied.receipt
    assert not torch.equal(picture(demo), expected)


def test_an_empty_erasure_without_a_recipe_is_an_error(demo):
    with pytest.raises(NothingMatched, match="The erasure is empty"):
        apply(demo, Membrane(Erasure(), gate="always"))


@pytest.mark.parametrize(
    "recipe", [{}, {"method": "uce"}, {"method": "uce", "concepts": [{"target": "x"}]}, {"method": 3}]
)
def test_an_incomplete_recipe_is_refused(demo, recipe):
    with pytest.raises(BadInput, match="incomplete, so it cannot be solved again"):
        erase_again(demo, recipe)


def test_deltas_of_one_weight_are_added(demo):
    shape = tuple(demo.weights()[NAME].shape)
    low = [
        WeightDelta(NAME, down=torch.randn(r, shape[1]), up=torch.randn(shape[0], r), scale=s)
        for r, s in ((1, 0.5), (3, 2.0))
    ]
    full = random_delta(NAME, shape)
    both = combine([(Erasure(weight_deltas={NAME: delta}), 1.5) for delta in low])
    assert both.weight_deltas[NAME].rank == 4
    expected = 1.5 * (low[0].dense() + low[1].dense())
    assert torch.allclose(both.weight_deltas[NAME].dense(), expected, atol=1e-4)
    mixed = combine([(Erasure(weight_deltas={NAME: low[0]}), 1.0), (Erasure(weight_deltas={NAME: full}), 2.0)])
    assert torch.allclose(mixed.weight_deltas[NAME].dense(), low[0].dense() + 2 * full.dense(), atol=1e-5)


def test_what_belongs_to_different_models_is_not_added(circle, heart):
    other = dataclasses.replace(heart, base={**heart.base, "family": "sd2"})
    with pytest.raises(WrongFamily, match="model family sd1 and sd2"):
        combine([(circle, 1.0), (other, 1.0)])
    skipped = dataclasses.replace(heart, base={**heart.base, "clip_skip": 2})
    with pytest.raises(WrongFamily, match="clip-skip 1 and 2"):
        combine([(circle, 1.0), (skipped, 1.0)])
    keys = dataclasses.replace(heart, applies="k")
    with pytest.raises(WrongFamily, match="different parts of attention"):
        combine([(circle, 1.0), (keys, 1.0)])
    with pytest.raises(BadInput, match="no membrane to save"):
        combine([])

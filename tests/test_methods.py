"""What holds for every closed-form method: one contract, one row per method."""

import json

import pytest
import torch
from apply_support import assert_untouched, picture, weights_of
from closed_form_support import same

from erasure_core import BadInput, Membrane, apply, erase
from erasure_core.closed_form import METHODS, explain
from erasure_core.join import erase_again

CASES = [(method, {}) for method in METHODS] + [
    ("time", {"with_to_k": False}),
    ("rece", {"variant": "surrogatereg", "reg_item": "both", "epochs": 2}),
    ("mace", {"preserve_scale": 0.1}),
    ("leace", {"affine": False, "rows": "ALL77"}),
    ("uce", {"mode": "debias", "alpha": "0.3"}),
    ("uce", {"singular": 2}),
    ("leace", {"singular": 1}),
]
LINES = ["circle -> square", "heart -> star @ 2", "style: dotted -> striped"]


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize(("method", "options"), CASES)
def test_any_order_gives_the_same_and_the_recipe_gives_it_again(demo, method, options, parity):
    first = erase(demo, LINES, method, preserve=["moon", "ring"], parity=parity, **options)
    other = erase(demo, LINES[::-1], method, preserve=["ring", "moon"], parity=parity, **options)
    assert same(first, other, recipe=True)
    recipe = json.loads(json.dumps(first.recipe))
    again = erase_again(demo, recipe)
    assert same(first, again, recipe=True)
    assert recipe == first.recipe
    json.dumps([first.base, first.gate, first.diagnostics])
    assert first.recipe["method"] == method
    assert first.gate["phrases"][:3] == ["circle", "dotted", "heart"]  # some methods find more


@pytest.mark.parametrize(("method", "options"), [*CASES, ("leace", {"variant": "oracle"})])
def test_off_is_bitwise_off_and_on_changes_pictures(demo, method, options):
    base = weights_of(demo), picture(demo)
    erasure = erase(demo, LINES[0], method, **options)
    with apply(demo, Membrane(erasure, strength=0)):
        assert torch.equal(picture(demo), base[1])
    with apply(demo, Membrane(erasure)):
        assert not torch.equal(picture(demo), base[1])
    assert_untouched(demo, base)


@pytest.mark.parametrize("method", METHODS)
def test_it_explains_itself(method):
    text = explain(method)
    assert "singular" in text and "exact" in text and len(METHODS[method].SUMMARY) < 130
    assert METHODS[method].WHY.endswith("\n")


@pytest.mark.parametrize("method", METHODS)
def test_the_neutral_word_itself_has_no_neutral(demo, method):
    with pytest.raises(BadInput, match="'object' is itself the neutral word"):
        erase(demo, "object", method)

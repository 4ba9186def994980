"""What holds for every closed-form method: one contract, one row per method."""

import json

import pytest
import torch
from apply_support import assert_untouched, picture, weights_of
from closed_form_support import same

from erasure_core import BadInput, Membrane, apply, erase
from erasure_core.closed_form import METHODS, explain
from erasure_core.closed_form.common import Job
from erasure_core.closed_form.singular import projector
from erasure_core.concepts import concept_set
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


def job(demo, text):
    from erasure_core.closed_form.uce import Settings

    return Job.of(demo, concept_set(text), Settings(), False, demo.neutrals)


@pytest.mark.parametrize("directions", [1, 3])
def test_a_projector_kills_its_directions_and_nothing_else(demo, directions):
    made = job(demo, LINES[:2])
    rows = made.rows("clip_l", made.pairs(made.anchors(), lambda _: ("{}", "a {}")), "LAST+EOT")
    u, v, owners = projector(made.problem("clip_l", rows, 0.5, "LAST+EOT"), directions)
    unit = torch.eye(64, dtype=torch.float64)
    p = unit - u @ v
    torch.testing.assert_close(v @ u, torch.eye(len(v), dtype=torch.float64), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(p @ p, p, rtol=1e-8, atol=1e-8)
    assert torch.linalg.matrix_rank(p) == 64 - 2 * directions
    assert owners.tolist() == [0] * directions + [1] * directions


@pytest.mark.parametrize(("method", "options"), [("uce", {}), ("time", {}), ("rece", {"epochs": 1})])
def test_singular_maps_have_no_way_back(demo, plain, method, options):
    """Where the plain map gives the concept's row for a text made for it, the singular one stops short of it."""
    row = plain.rows("a circle")[2].double()
    for k in (0, 3):
        erasure = erase(demo, "circle -> square\nheart -> star", method, singular=k, **options)
        t = erasure.maps["clip_l"].matrix()
        values = torch.linalg.svdvals(t)
        back = torch.linalg.lstsq(t, row[:, None], driver="gelsd", rcond=1e-5).solution[:, 0]
        missing = ((t @ back - row).norm() / row.norm()).item()
        if k == 0:
            assert values[-1] > 1e-5 * values[0] and missing < 1e-3
        else:
            assert (values < 1e-5 * values[0]).sum() == 2 * k and missing > 0.05
            assert erasure.diagnostics["clip_l"]["singular"] == 2 * k
            assert len(erasure.recipe["rows"]["clip_l"]) == erasure.maps["clip_l"].rank
            assert erasure.recipe["options"]["singular"] == k


def test_one_concept_under_two_names_is_removed_once(demo):
    erasure = erase(demo, "circle -> square\na circle -> a square", singular=2)
    assert torch.isfinite(erasure.maps["clip_l"].matrix()).all()
    assert erasure.diagnostics["clip_l"]["norm"] < 5


def test_singular_needs_a_map(demo):
    with pytest.raises(BadInput, match="'singular' follows a map of the text"):
        erase(demo, "circle", generation="2023", technique="tensor", singular=1)


@pytest.mark.parametrize("value", [-1, 65, 1.5, "yes"])
def test_singular_out_of_range(demo, value):
    with pytest.raises(BadInput, match="'singular'"):
        erase(demo, "circle", singular=value)

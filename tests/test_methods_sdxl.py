"""SPEED, TRCE, RealEra and CRCE on SDXL's shapes: two text spaces, of which parity leaves the pooled one alone."""

import json

import pytest
from method_checks import same
from tiny_models import WIDTHS, tiny_sdxl

from erasure_core.closed_form import erase
from erasure_core.erasure import POOLED_SPACE, POOLED_WEIGHT
from erasure_core.join import erase_again


@pytest.fixture(scope="module")
def sdxl():
    pytest.importorskip("diffusers")
    from erasure_core.models import from_pipeline

    return from_pipeline(tiny_sdxl())


@pytest.mark.parametrize("method", ["speed", "trce", "realera", "crce"])
def test_both_text_spaces_are_edited_and_the_recipe_gives_them_again(sdxl, method):
    made = erase(sdxl, "circle -> square\nheart -> star", method, preserve=["moon", "cross"])
    context = next(iter(sdxl.spaces))
    assert list(made.maps) == [context, POOLED_SPACE]
    assert made.maps[context].width == sum(WIDTHS)
    assert POOLED_WEIGHT in made.deltas(sdxl.weights())
    assert same(made, erase_again(sdxl, json.loads(json.dumps(made.recipe))))


@pytest.mark.parametrize("method", ["speed", "trce", "realera", "crce"])
def test_parity_leaves_the_pooled_text_alone(sdxl, method):
    made = erase(sdxl, "circle -> square", method, preserve=["moon"], parity=True)
    assert POOLED_WEIGHT not in made.deltas(sdxl.weights())
    assert len(made.deltas(sdxl.weights())) == (8 if method == "speed" else 16)

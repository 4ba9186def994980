"""Negative Guidance with every family, a ControlNet and inpainting, against u + w (c - n) written out."""

import pytest

EXACT = 5e-6  # float32 over 6 steps, against float64


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("guidance_models")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "flux-dev", "flux-schnell"])
def test_the_node_is_the_formula_with_every_family(answer, kind):
    error, effect, off = answer["families"][kind]
    assert error <= EXACT and effect > 1e-2 and off


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn"])
def test_weights_stored_in_smaller_types_work(answer, name):
    error, effect, off = answer["stored"][name]["guidance"]
    assert error <= EXACT and effect > 1e-2 and off
    for unchanged, acts, finite in answer["stored"][name]["attention"].values():
        assert unchanged and acts > 1e-4 and finite


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_its_text_is_drawn_under_the_same_controlnet(answer, kind):
    error, effect, off, control = answer["control"][kind]
    assert error <= EXACT and effect > 1e-2 and off and control > 1e-2


@pytest.mark.parametrize("kind", ["inpaint", "sd1"])
def test_its_text_sees_the_same_mask_and_picture_and_the_rest_stays(answer, kind):
    error, effect, off, outside = answer["inpainting"][kind]
    assert error <= EXACT and effect > 1e-2 and off and outside <= 1e-5


@pytest.mark.parametrize("guider", ["dual", "perp-neg"])
def test_guiders_of_three_texts_draw_as_without_it_and_the_node_says_so(answer, guider):
    same, said = answer["three texts"][guider]
    assert same and len(said) == 1 and said[0].startswith("Nothing was guided: this sampling does not")

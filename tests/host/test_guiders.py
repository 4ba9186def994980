"""Samplers of many kinds, and guiders with other lists of prompts: the negative prompt is known by its role."""

import pytest

SAMPLERS = [
    "euler 5",
    "dpmpp_2m 5",
    "heun 5",
    "euler_ancestral 5",
    "uni_pc 5",
    "dpmpp_2s_ancestral 5",
    "lcm 5",
    "ddim 5",
]
ROLES = {
    "CFG": {"positive", "negative"},
    "basic": {"positive"},
    "dual": {"positive", "middle", "negative"},
    "perp-neg": {"positive", "negative", "empty_negative_prompt"},
    "another pack's": {"positive", "negative", "concept"},
}


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("guiders")


@pytest.mark.parametrize("sampler", [*SAMPLERS, "euler 1"])
def test_every_sampler_draws_what_edited_weights_draw(answer, sampler):
    """Relative 2-norm of latents after four steps."""
    found = answer["samplers"][sampler]
    assert found["acts"] > 0.1
    assert found["weights"] <= 1e-5
    assert found["again, bitwise"]


@pytest.mark.parametrize("guider", ROLES)
def test_only_negative_prompts_are_spared(answer, guider):
    expected = {role: ["spared" if "negative" in role else "mapped"] for role in ROLES[guider]}
    assert answer["guiders"]["cond"][guider] == expected


@pytest.mark.parametrize("guider", ROLES)
def test_or_none_if_all_rows_are_meant(answer, guider):
    assert answer["guiders"]["all"][guider] == {role: ["mapped"] for role in ROLES[guider]}

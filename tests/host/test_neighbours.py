"""Beside a ControlNet of the host, and beside a pack that couples regions inside cross-attention.

Differences are relative 2-norms of the U-Net's answers for both prompts at four noise levels, the worst of them.
"""

import pytest

EXACT = 1e-5


@pytest.fixture(scope="module")
def control(in_comfy):
    return in_comfy("control")


@pytest.fixture(scope="module")
def regions(in_comfy):
    return in_comfy("regions")


@pytest.fixture(params=("sd1", "sdxl"))
def controlled(control, request):
    return control[request.param]


@pytest.fixture(params=("sd1", "sd1 apart", "sdxl"))
def coupled(regions, request):
    return regions[request.param]


def test_a_controlnet_receives_the_text_as_it_was(controlled):
    assert controlled["calls"] == 4
    assert all(controlled["its text is bitwise the plain one"].values())


def test_a_membrane_beside_a_controlnet_is_the_edited_unet(controlled):
    assert min(controlled["ControlNet acts"], controlled["membrane acts"]) > 1e-2
    assert controlled["weights"] <= EXACT
    assert controlled["cond"] > 1e-3


def test_off_beside_a_controlnet_is_bitwise_off(controlled):
    assert controlled["off, bitwise"]


def test_a_membrane_beside_coupled_regions_is_the_edited_unet(coupled):
    assert min(coupled["couple acts"], coupled["membrane acts"]) > 1e-2
    assert coupled["weights"] <= EXACT


def test_the_order_of_the_two_nodes_does_not_matter(coupled):
    assert coupled["both orders, bitwise"]


def test_off_beside_coupled_regions_is_bitwise_off(coupled):
    assert coupled["off, bitwise"]


def test_the_negative_prompt_is_spared_although_the_pack_repeats_its_rows(coupled):
    assert coupled["cond: rows"] == 4
    assert coupled["cond: negative row is bitwise"]
    assert coupled["cond: the others are mapped"] <= 1e-6


def test_each_text_of_a_region_has_its_own_gain(regions):
    """Rows: the negative prompt, the prompt, a blue circle, a red heart."""
    named, other = regions["gates"]["a red circle"], regions["gates"]["a red star"]
    assert named["bitwise"] == [True, False, False, True]
    assert named["gains"][1] == pytest.approx(1, abs=1e-6)
    assert 0.5 < named["gains"][2] < 1 + 1e-6
    assert other["bitwise"] == [True, True, False, True]

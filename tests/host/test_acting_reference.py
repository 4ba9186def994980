"""The text that reaches the U-Net is ``x + g D (Y x)``, written out in loops: three membranes, each with its gain."""

import pytest


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("acting_reference")


@pytest.fixture(params=[f"{family} {rows}" for family in ("sd1", "sdxl") for rows in ("cond", "all")])
def found(answer, request):
    return answer[request.param]


def test_the_text_is_what_the_formula_says(found):
    assert found["changed"] > 1e-2
    assert found["text"] <= 1e-6


def test_rows_without_gain_are_bitwise_the_same(found):
    assert found["spared rows are bitwise"]


@pytest.mark.parametrize("rows", ["cond", "all"])
def test_sdxls_label_follows_the_same_formula_and_its_sizes_stay(answer, rows):
    found = answer[f"sdxl {rows}"]
    assert found["label changed"] > 1e-2
    assert found["label"] <= 1e-6
    assert found["sizes are bitwise"]

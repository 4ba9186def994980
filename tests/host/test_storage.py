"""Weights stored in few bits, quantised or broken; models that do not fit; hosts short of memory.

Differences are relative 2-norms of the U-Net's answers for both prompts at four noise levels, the worst of them.
"""

import pytest

EXACT = 1e-5
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float8_e4m3fn": 2**-4}  # relative error of one stored number


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("storage")


@pytest.mark.parametrize("dtype", ROUNDING)
def test_on_the_text_the_storage_does_not_matter(answer, dtype):
    found = answer[dtype]
    assert found["stored as"] == f"torch.{dtype}"
    assert found["acts"] > 1e-2 and found["off, bitwise"]
    assert found["text"] == 0, "the same as a float32 model with the very numbers"


@pytest.mark.parametrize("dtype", ROUNDING)
def test_edited_weights_are_as_exact_as_their_storage(answer, dtype):
    assert EXACT < answer[dtype]["weights"] <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_that_computes_in_half_precision_loses_no_more_than_without_us(answer, dtype):
    found = answer[dtype]
    assert found["computed: text"] <= 1.5 * found["computed: plain"]
    assert found["computed: weights"] <= 1.5 * found["computed: plain"]


@pytest.mark.parametrize(("kind", "form"), [("int8", "torch.int8"), ("packed", "Q8_0")])
def test_quantised_weights_work_on_the_text_and_are_refused_by_name_otherwise(answer, kind, form):
    found = answer[kind]
    assert found["text refused"] == "" and found["acts"] > 1e-2 and found["text"] <= EXACT
    assert found["refused"].startswith("BadInput: The weight unet.")
    assert f"is quantised ({form}) and cannot be read as numbers" in found["refused"]
    assert "(act_on = text), which needs no weight" in found["refused"] and "\n" not in found["refused"]


def test_broken_weights_are_refused_by_name(answer):
    said = answer["nan"]
    assert said.startswith("IllConditioned: The model's weight unet.mid_block.attentions.0.")
    assert said.endswith("attn2.to_v.weight holds NaN or infinite values. Load an intact checkpoint.")


@pytest.mark.parametrize("case", ["always cond", "always all", "words cond", "words all"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_in_separate_calls_give_the_same(answer, family, case):
    found = answer["short"][family][case]
    assert found["together"] == [0, 1] and found["apart"] == [[0]] * 4 + [[1]] * 4
    assert found["acts"] > 1e-2
    assert found["short"] <= EXACT


def test_offloaded_weights_give_the_same(answer):
    found = answer["offloaded"]
    assert found["offloaded"] == [True, True]
    assert found["acts"] > 1e-2
    assert found["text"] == found["weights"] == 0

"""Batches of different prompts equal the same prompts one at a time; long prompts beside short ones.

Differences are relative 2-norms of the U-Net's answers for both prompts at several noise levels, the worst of them.
"""

import pytest

EXACT = 1e-5
WAYS = [
    "batch of four",
    "stacked two, batch of four",
    "stacked four, batch of four",
    "combined, batch of four",
    "stacked negatives",
]


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("batches")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["demo words", "sdxl always"])
def test_together_is_one_at_a_time(answer, model, way):
    found = answer[model][way]
    assert found["acts"] > 1e-2
    assert found["alone"] <= EXACT


def test_rows_whose_gate_is_closed_are_bitwise_plain_among_others_that_are_not(answer):
    closed = {way: answer["demo words"][way]["bitwise plain"] for way in WAYS[1:3]}
    assert closed == {WAYS[1]: [False, True, False, True], WAYS[2]: [False, True, True, False]}
    assert answer["sdxl always"][WAYS[1]]["bitwise plain"] == [False] * 4


@pytest.mark.parametrize("case", ["long", "long negative"])
def test_a_prompt_of_200_tokens(answer, case):
    assert answer["lengths"]["rows"] == 3 * 77
    found = answer["lengths"][case]
    assert found["acts"] > 1e-2
    assert found["weights"] <= EXACT
    assert found["cond is all for the prompt, bitwise"] and found["cond spares the negative, bitwise"]

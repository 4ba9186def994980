"""Batches of different prompts equal the same prompts one at a time; long prompts beside short ones.

Differences are relative 2-norms of the U-Net's answers for both prompts at four noise levels, the worst of them.
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
@pytest.mark.parametrize("model", ["demo always", "demo words", "sdxl always", "sdxl words"])
def test_together_is_one_at_a_time(answer, model, way):
    found = answer[model][way]
    assert found["acts"] > 1e-2
    assert found["alone"] <= EXACT


def test_the_gate_of_words_acts_on_fewer_prompts(answer):
    for model in ("demo", "sdxl"):
        always, words = answer[f"{model} always"], answer[f"{model} words"]
        assert words["batch of four"] == always["batch of four"]
        assert words["combined, batch of four"]["acts"] < always["combined, batch of four"]["acts"]


@pytest.mark.parametrize("case", ["long", "long negative"])
def test_a_prompt_of_200_tokens(answer, case):
    assert answer["lengths"]["rows"] == 3 * 77
    found = answer["lengths"][case]
    assert found["acts"] > 1e-2
    assert found["weights"] <= EXACT
    assert found["cond is all for the prompt, bitwise"] and found["cond spares the negative, bitwise"]

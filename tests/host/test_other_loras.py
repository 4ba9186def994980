"""A user's LoRA (attention of the U-Net and of the text encoder) before and after a membrane in the graph.

Differences are relative 2-norms of the U-Net's answers at four noise levels.
"""

import pytest

EXACT = 1e-5


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("other_loras")


@pytest.fixture(params=("sd1", "sd2", "sdxl"))
def found(answer, request):
    return answer[request.param]


def test_both_matter(found):
    assert min(found["lora acts"], found["membrane acts"], found["both act"]) > 0.05


def test_on_the_text_the_order_of_nodes_does_not_matter(found):
    assert found["text in both orders, bitwise"]
    assert found["stamp behind a lora"] == "a red circle"


def test_weights_after_a_lora_are_the_text_form(found):
    assert found["lora, weights"] <= EXACT


def test_weights_before_a_lora_miss_what_the_lora_adds(found):
    """``W + L + W D Y`` instead of ``(W + L)(I + D Y)``: the LoRA's own answer to the concept, ``L D Y``, is missing.

    Nothing can be done about it from where the node stands, so its tooltip asks for a place after the LoRAs.
    """
    assert found["weights, lora, by hand"] <= EXACT
    assert 1e-3 < found["weights, lora"] < found["membrane acts"]

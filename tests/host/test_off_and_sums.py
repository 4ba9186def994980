"""Off is bitwise off, the inputs stay untouched, and nodes in a row equal one node with the whole list."""

import pytest


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("off_and_sums")


@pytest.fixture(params=("demo", "sdxl"))
def off(answer, request):
    return answer["off"][request.param]


@pytest.fixture(params=("demo", "sdxl"))
def sums(answer, request):
    return answer["sums"][request.param]


def test_off_is_bitwise_off_and_on_is_not(off):
    assert len(off["off"]) == 3 * 3 + 4
    assert [name for name, equal in off["off"].items() if not equal] == []
    assert off["on"] == {"strength 1": False, "weights": False, "strength -1": False, "Erase": False}
    assert not off["open gate"], "the gate that was closed opens for a prompt that names the concept"


def test_the_vectors_of_a_prompt_are_bitwise_the_hosts(off):
    assert [name for name, equal in off["vectors"].items() if not equal] == []


def test_what_a_node_was_given_is_unchanged(off):
    assert off["removed"]
    assert off["changed inputs"] == []


def test_nodes_in_a_row_add_up(sums):
    assert sums["one of them"] > 1e-3
    assert sums["in a row, bitwise"], "the second node joins the first one's membranes"
    assert sums["in a row, cond"] == 0
    assert sums["solved jointly"] > 1e-4, "one list is more than the sum: each map knows of the other's words"


@pytest.mark.parametrize("name", ["list turned round", "in a row, turned round"])
def test_order_changes_nothing(sums, name):
    assert sums[name] == 0


@pytest.mark.parametrize("name", ["weights", "weights in a row", "weights in a row, turned round"])
def test_weights_add_up_to_the_same(sums, name):
    assert sums[name] <= 1e-5


@pytest.mark.parametrize("name", ["text, then weights", "weights, then text"])
def test_one_on_the_text_and_one_in_the_weights_act_one_after_the_other(sums, name):
    assert sums[name] <= 1e-5
    assert 1e-3 < sums["composed"] < 0.05, "which differs from the sum by the product of the two changes"

"""Files through the nodes: found by name, by content, or solved again; saved without losing or repeating anything."""

import pytest


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("files_of_membranes")


def test_a_saved_file_is_listed_and_loaded_bitwise(answer):
    found = answer["by name"]
    assert answer["place"] == ["models", "membranes"]
    assert found["listed"] == "sub/no-circle.safetensors" and found["inside"]
    assert found["choices"] == ["sub/no-circle.safetensors"]
    assert found["equal"] and found["notes"] == []
    assert found["reference"] == ["bytes", "gate", "recipe", "sha256"]


def test_names_with_backslashes_are_the_same_names(answer):
    found = answer["by name"]
    assert found["windows"] and found["saved with backslash"] == "other/no-circle.safetensors"


def test_names_may_hold_the_hosts_patterns(answer):
    year, _, rest = answer["by name"]["with a date"].partition("/")
    assert rest == "no-circle.safetensors" and year.isdigit() and len(year) == 4


def test_the_host_is_told_when_a_file_has_changed(answer):
    assert answer["by name"]["changed"] == ["missing", False, True]


@pytest.mark.parametrize("node", ["5", "5:12"])
def test_a_renamed_file_is_found_by_its_content(answer, node):
    note = "'before.safetensors' is now called 'after.safetensors': found by its content"
    assert answer["moved"][f"renamed {node}"] == ["after", [note], True, True]


@pytest.mark.parametrize("node", ["5", "5:12"])
def test_a_missing_file_is_solved_again_from_the_workflow_bitwise(answer, node):
    found = answer["moved"][f"gone {node}"]
    assert found["label"] == "before"
    assert found["notes"] == ["'before.safetensors' is not on this machine: it will be solved again"]
    assert found["receipt"] == "note: the file of 'before' is missing: solved again from its recipe"
    assert found["maps, bitwise"] and found["picture, bitwise"] and found["remembered"]


def test_a_missing_file_still_knows_its_words(answer):
    assert answer["moved"]["gone, gate of words"] == {
        "a red moon": [[[1.0]], "exact"],
        "a red star": [[[0.0]], "exact"],
    }


@pytest.mark.parametrize("case", ["gone, other node", "gone, nothing known"])
def test_a_missing_file_without_a_recipe_is_an_error(answer, case):
    said = answer["moved"][case]
    assert said.startswith("UnknownFormat: 'before.safetensors' is not in models/membranes or models/loras, and this ")
    assert "has no recipe to solve it again. Put the file there" in said


def test_the_same_content_is_written_once_and_nothing_is_lost(answer):
    found = answer["again"]
    first, second = "twice.safetensors", "twice-2.safetensors"
    assert found["names"] == [first, first, second, second, first, first]
    assert found["first is untouched"] and found["overwritten"]
    assert found["files"] == [second, first]


def test_loaders_in_a_chain_make_a_list_in_their_order(answer):
    found = answer["chained"]
    assert found["list"] == [["first", 0.5, "always"], ["second", -2.0, "words"]]
    assert found["inspected"] == ["first  (strength 0.5, gate always)", "second  (strength -2, gate words)"]


def test_a_list_in_one_file_is_the_list(answer):
    found = answer["chained"]
    assert found["acts"] > 1e-2
    assert found["sum of files"] <= 1e-6
    assert found["lora"] == "loras/sum.safetensors" and found["sum as a lora"] <= 1e-5

"""Attention Negative in real samplings. Differences are relative 2-norms of the U-Net's answers."""

import pytest

EXACT = 1e-5
METHODS = ("vsf", "nag", "adavd")


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("attention_negative")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cfg", ["1", "5"])
def test_off_is_bitwise_off_and_on_is_not(answer, method, cfg):
    found = answer["off"][method]
    assert not found[f"on, {cfg}"]
    assert found[f"strength, {cfg}"] and found[f"window, {cfg}"] and found[f"base again, {cfg}"]


@pytest.mark.parametrize("method", METHODS)
def test_both_halves_together_or_apart_are_the_same(answer, method):
    """The host's own NAG does nothing where memory is short and the halves come in calls of their own."""
    found = answer["halves"][method]
    assert found["prompt"] > 1e-2 and found["apart"] <= EXACT and found["hooks"] == 0
    assert found["negative, bitwise"] is (method != "adavd")


@pytest.mark.parametrize("kind", ["demo", "sdxl"])
def test_the_node_is_the_formula_in_every_layer(answer, kind):
    found = answer["reference"][kind]
    assert found["acts"] > 1e-2 and found["node"] <= EXACT and found["layers"] >= 3


def test_text_and_connected_negative_are_the_same_and_every_entry_counts(answer):
    found = answer["forms"]
    assert found["stamped"] <= EXACT and found["all entries"] <= EXACT
    assert found["unstamped"] > 1e-3 and found["first entry only"] > 1e-3
    assert found["note"] == [False, True]


def test_a_lora_behind_the_node_counts_for_the_negative(answer):
    assert answer["weights"]["either order"] <= EXACT and answer["weights"]["acts"] > 1e-2


def test_beside_other_nodes(answer):
    found = answer["beside"]
    assert found["both act"] > 1e-3 and found["with a membrane"] > 1e-2
    assert found["gate closed, bitwise"] and found["gate open"] > 1e-2
    assert found["replacement ran"] and found["replaced"] <= EXACT


def test_nothing_stays_on_the_model_after_an_interruption(answer):
    assert answer["interrupted"] == {"stopped": True, "hooks": 0, "base": True}


def test_windows_are_progress_of_the_model(answer):
    """Levels 14, 3, 0.7, 0.1: progress 0.01, 0.33, 0.75, 0.98 of Stable Diffusion's schedule."""
    assert answer["windows"] == {"0-0.4": [False, False, True, True], "0.4-1": [True, True, False, False]}


def test_membranes_on_all_rows_map_the_negative_as_edited_weights_do(answer):
    found = answer["membranes"]
    assert found["either order, bitwise"] and found["acts"] > 1e-2
    assert found["all"] < 1e-3 and found["cond"] > 1e-2


def test_ids_are_encoded_as_they_stand(answer):
    assert answer["ids"] == {"demo": True, "sdxl": True}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nothing", "BadInput: There is nothing to avoid: write it into the text and connect CLIP, or connect"),
        ("no clip", "BadInput: Text can only be read with a text encoder: connect CLIP."),
        ("width", "BadInput: The negative has vectors of width 768, this model reads 64."),
        ("option", "'vsf' has no option 'alpah'. Its options: alpha (-1 to 50; default 2.0)"),
        ("ramp", "The option 'ramp' cannot be 'wide'. It takes 0 to 1"),
        ("gate", "BadInput: A gate needs words to look for"),
        ("fine", ""),
    ],
)
def test_what_cannot_be_used_is_one_sentence(answer, case, words):
    assert answer["refused"][case].startswith(words)

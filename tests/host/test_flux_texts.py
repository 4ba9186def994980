"""Flux reads its text by one matrix: a map on T5's rows is an edit of that matrix, gated by the words of the prompt.

A tiny random Flux of the host's own classes; differences are relative 2-norms of the denoiser's answers at three noise
levels.
"""

import pytest

EXACT = 1e-5


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("flux_texts")


def test_texts_are_those_of_the_host_at_any_length(answer):
    found = answer["vectors"]
    assert found["family"] == "flux" and found["spaces"] == {"t5": 48}
    assert found["lengths"] == found["host lengths"] and found["lengths"][0] == 256 < found["lengths"][1]
    assert found["rows"] <= 1e-6 and found["beyond"] == 0
    assert found["last token"] == [1, 1, 1]
    assert found["words"][0] == 3 and found["words"][1] > 77 and found["words"][2] == 0


@pytest.mark.parametrize("prompt", ["short", "schnell", "long", "areas"])
def test_a_map_on_the_text_is_an_edit_of_the_matrix_that_reads_it(answer, prompt):
    found = answer[prompt]
    assert found["acts"] > 0.05 and found["off, bitwise"]
    assert found["weights"] <= EXACT and found["by hand"] <= EXACT


@pytest.mark.parametrize("prompt", ["short", "schnell", "long"])
def test_the_negative_prompt_is_left_alone(answer, prompt):
    found = answer[prompt]
    assert found["cond: positive"] <= EXACT and found["cond: negative, bitwise"]


@pytest.mark.parametrize("prompt", ["named", "not named", "named late", "not named, long"])
def test_the_gate_opens_by_words(answer, prompt):
    found = answer["words"][prompt]
    opens = not prompt.startswith("not")
    assert found["words"] == opens
    assert found["open, bitwise"] == opens and found["closed, bitwise"] != opens
    assert (found["change"] > 0.05) == opens
    assert (found["rows"] > 256) == prompt.endswith(("late", "long"))


def test_every_closed_form_method_acts(answer):
    assert len(answer["methods"]) >= 9
    for found in answer["methods"].values():
        assert found["change"] > 0.03
        assert "family flux · 1 of 1 layers" in found["receipt"] and "one vector of CLIP-L" in found["receipt"]


def test_the_firewall_acts_on_what_is_named(answer):
    named, other = (answer["firewall"][prompt] for prompt in ("a red circle", "a red star"))
    assert named["change"] > 0.05 and other["bitwise"]


def test_what_flux_cannot_do_is_refused(answer):
    found = answer["refusals"]
    for kind in ("values only", "layer by layer"):
        assert found[kind].startswith("BadInput: Flux reads its text by one matrix")
    assert found["another encoder"].startswith("WrongFamily: This text encoder is not Flux's")

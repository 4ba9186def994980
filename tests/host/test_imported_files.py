"""Whole weights in a graph: compared with a connected base once, kept small, found again; all told on the node."""

import re

import pytest

KEPT = 0.05  # of the effect: at most 3.2 % of each change is left out


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("imported_files")


def test_a_file_of_torch_is_listed_and_erases_what_it_changes(answer):
    found = answer["whole"]
    assert found["listed"][0] == "esd.pt" and found["label"] == "esd"
    assert found["acts"] > 0.02 and found["wrong"] < KEPT * found["acts"]


def test_it_is_kept_and_the_second_time_read_from_there(answer):
    found = answer["whole"]
    first, second = found["first"][0], found["second"][0]
    assert re.match(r"compared with the base: the low-rank form leaves out [0-3]\.\d\d% of the change; kept as", first)
    assert "; kept as imported/esd-" in first and second == first.replace("kept as", "read from")
    assert found["kept again"] and found["same"]
    assert found["listed"][1] == first.partition("kept as ")[2]


def test_another_base_is_another_file(answer):
    assert answer["whole"]["other base is another import"]
    assert "kept as" in answer["whole"]["notes with clip"][0] and answer["whole"]["with clip"]


def test_the_concept_is_what_the_user_says(answer):
    plain, told = answer["whole"]["gates"]
    assert plain == {"rows": "full"} and told["phrases"] == ["a red circle"] and told["rows"] == "full"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no base", "BadInput: esd.pt holds whole new weights, not what was changed."),
        ("clip alone", "BadInput: 'base_clip' goes with 'base': connect the MODEL of the same checkpoint"),
        ("other model", "WrongBase: esd.pt was made from another model: its matrices differ from this base's by"),
        (
            "other family",
            "WrongFamily: esd.pt was made for another model: 14 of its 28 entries do not fit sd2, first model.",
        ),
    ],
)
def test_a_base_that_is_missing_or_wrong_is_one_sentence(answer, case, words):
    assert answer["whole"]["refused"][case].startswith(words)
    assert "MODEL to 'base' of Load Membrane" in answer["whole"]["refused"]["no base"]


def test_a_closed_form_edit_becomes_its_map_again(answer):
    found = answer["closed form"]
    assert found["map"] == [2, ["clip_l"], 0] and found["probe"] == ["clip_l"]
    assert found["notes"][0].startswith("compared with the base: the map misses 0.0")
    assert found["acts"] > 0.01 and found["wrong"] < 1e-4


def test_a_text_encoder_changes_the_text(answer):
    found = answer["text encoder"]
    assert found["roots"] == ["text_encoder"] and found["acts"] > 0.1 and found["wrong"] < KEPT * found["acts"]
    assert (
        found["no clip"].startswith("BadInput: encoder.pt holds a text encoder") and "'base_clip'" in found["no clip"]
    )


def test_recelers_erasers_are_read(answer):
    found = answer["erasers"]
    assert found["names"] == ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2"]
    assert found["gate"]["phrases"] == ["van gogh"] and found["notes"] == []


def test_a_large_file_is_small_afterwards_and_read_again_at_once(answer):
    found = answer["big"]
    before, after = found["bytes"]
    assert after < before / 5 and found["again"] and found["left out"] < 0.1
    count, last = found["steps"]
    assert count > 10 and last == [last[1], last[1]]  # once, and to the end


def test_cancelling_leaves_nothing_and_stops_nothing(answer):
    found = answer["interrupted"]
    assert found["said"].startswith("InterruptProcessingException") and found["left"] == []
    assert found["afterwards"]

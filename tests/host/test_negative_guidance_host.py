"""Negative Guidance in real samplings. Differences are relative 2-norms of latents or of the U-Net's answers."""

import pytest

EXACT = 2e-5  # float32 over 8 steps at guidance 5, against formulas in float64
SAMPLERS = ("euler", "dpmpp_2m", "heun", "euler_ancestral")
KINDS = ("eps", "v", "flow")


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("negative_guidance")


@pytest.fixture(scope="module")
def formulas(in_comfy):
    return in_comfy("guidance_formulas")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_node_is_the_published_formula(formulas, kind, sampler):
    for name in ("negation", "perp_neg", "sld"):
        error, effect = formulas[f"{kind}, {sampler}, {name}"]
        assert error <= EXACT and effect > 5e-3, name


def test_off_is_bitwise_off_and_on_is_not(answer):
    assert len(answer["off"]) == 28
    assert [name for name, held in answer["off"].items() if not held] == []


def test_evaluations_are_those_of_the_window(answer):
    for name, further in {"negation": 1, "negation, whole": 1, "sld": 1, "two": 2}.items():
        rows, inside = answer["costs"][name]
        assert rows == [2 + further * here for here in inside], name
        steps = len(rows)
        assert sum(rows) / (2 * steps) == pytest.approx(1 + 0.5 * further * sum(inside) / steps)
    assert 0 < sum(answer["costs"]["negation"][1]) < 20 and 0 < sum(answer["costs"]["sld"][1]) < 20
    assert set(answer["costs"]["negative"][0]) == {2}


def test_without_guidance_the_window_costs_two_texts_and_the_rest_none(answer):
    rows, inside = answer["costs"]["negation, 1"]
    assert rows == [3 if here else 1 for here in inside] and set(rows) == {1, 3}
    assert set(answer["costs"]["negative, 1"][0]) == {1}


def test_nodes_in_a_row_share_one_batch_in_any_order(answer):
    found = answer["several"]
    assert set(found["rows"]) == {4}
    assert found["order"] <= EXACT and found["both act"] > 1e-2
    assert found["as lines of one"] <= 1e-4  # two terms added after guidance instead of before, at strong contrast
    assert found["earlier node alone"] and found["limited"] > 1e-2
    assert found["other encoder"].startswith("BadInput: Two Negative Guidance nodes read 'circle' with different")


@pytest.mark.parametrize("method", ["negation", "sld", "dng"])
def test_a_picture_does_not_depend_on_its_neighbours(answer, method):
    alone, turned, effect = answer["batches"][method]
    assert alone <= 1e-6 and turned <= 1e-6 and effect > 1e-2


def test_texts_evaluated_one_by_one_are_the_same(answer):
    assert answer["batches"]["rows apart"] == 1 and answer["batches"]["apart"] <= EXACT


def test_membranes_treat_its_texts_as_the_negative_on_either_side(answer):
    found = answer["beside"]
    assert found["rows=cond leaves it alone"] == [True, True]
    assert min(found["rows=all maps it"]) > 1e-2 and found["both"] > 1e-2


@pytest.mark.parametrize("name", ["rescale", "post", "pre"])
def test_it_composes_with_nodes_that_change_guidance(answer, name):
    acts, other_acts, off = answer["beside"][name]
    assert acts > 1e-2 and other_acts > 1e-2 and off


def test_nothing_stays_after_interruptions_and_failures(answer):
    found = answer["interrupted"]
    assert found.pop("stopped") == 20 and found.pop("hooks") == 0
    assert all(found.values()), found


def test_guiders_without_a_negative_and_with_three_texts(answer):
    found = answer["guiders"]
    assert found["basic acts"] > 1e-2 and found["basic is cfg 1 with an empty negative"] <= EXACT
    assert found["three"] and found["three is told"][0].startswith("Nothing was guided: this sampling")


def test_the_panel_is_told_what_happened(answer):
    ((name, sld),) = answer["events"]["sld"]
    assert (name, sld["node_id"], sld["label"], sld["warning"]) == ("membrane.guidance", "7", "sld: circle", "")
    assert len(sld["steps"]) == 8 and [row[0] for row in sld["steps"]] == sorted(row[0] for row in sld["steps"])
    acting = [row for row in sld["steps"] if row[3]]
    assert acting and all(0.2 <= row[0] < 0.5 and 0 < row[1] < 1 and row[2] == 1 for row in acting)
    assert sld["evaluations"] == [30, 7]  # 15 evaluations of Heun, 7 of them before 0.5: momentum is gathered from 0 on
    ((_, works),) = answer["events"]["negation, 1"]
    assert works["warning"] == "" and any(row[3] for row in works["steps"])
    ((_, idle),) = answer["events"]["negative, 1"]
    assert "does nothing. Use a scale above 1, or 'negation'." in idle["warning"]
    assert not any(row[3] for row in idle["steps"]) and idle["evaluations"] == [15, 0]


def test_plots(answer):
    found = answer["plots"]
    assert found["shape"] == [1, 600, 640, 3] and found["range"] == [0, 1]
    assert found["passes"] and found["of its own run"] and found["else of the last"]
    assert found["none"].startswith("BadInput: There is nothing to plot")


def test_nothing_is_infinite_without_any_direction(answer):
    assert all(answer["flat"].values()) and len(answer["flat"]) == 6


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("option", "'negation' has no option 'wn'"),
        ("own input", "'mode' has an input of its own on the node."),
        ("sum", "The option 'sum_limit' cannot be '9'. It takes 0.2 to 4"),
        ("two anchors", "Line 1, column 21: two anchors"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(answer, case, words):
    assert answer["refused"][case].startswith(words)


def test_what_can_be_used_is_taken(answer):
    assert answer["refused"]["fine"] == [True] * 4 and answer["refused"]["linked"] is True

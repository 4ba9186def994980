"""Many concepts at once: one bar of progress over all texts, and not all of them in memory."""

import pytest


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("many_concepts")


def test_forgetting_texts_changes_nothing(answer):
    assert answer["same"] is True
    assert answer["remembered"] == 60


def test_one_bar_runs_from_the_first_text_to_the_last(answer):
    longest = max(answer["many"], key=lambda bar: bar[0])
    total, *steps = longest
    assert total > 250  # fifty concepts in five sentences, encoded in more than one part
    assert steps == sorted(steps) and steps[-1] <= total and len(steps) > 2
    assert sum(bar[0] for bar in answer["many"] if bar is not longest) < 100  # the empty prompt, the probe
    assert max(bar[0] for bar in answer["few"]) < 100

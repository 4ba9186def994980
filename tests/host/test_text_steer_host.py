"""Text Steer in real samplings. Differences are relative 2-norms of the U-Net's answers or of vectors."""

import pytest

EXACT = 1e-5


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("text_steer")


@pytest.mark.parametrize("method", ["projection", "lancet", "safree"])
@pytest.mark.parametrize("kind", ["demo", "sdxl"])
def test_model_form_and_conditioning_form_are_the_librarys_text(answer, kind, method):
    found = answer["forms"][kind][method]
    assert found["acts"] > 1e-3
    assert max(found[name] for name in ("conditioning", "library", "pooled")) <= EXACT
    assert found["negative, bitwise"] and found["star, bitwise"] and found["off, bitwise"]
    assert found["input unchanged"] and found["empty"]
    assert "a red circle: presence" in found["receipt"] and "padding" in found["receipt"]


def test_the_filters_window_is_progress_of_the_model(answer):
    """Levels 14, 3, 0.7, 0.1: progress 0.01, 0.33, 0.75, 0.98; the change holds for the first half."""
    found = answer["window"]
    assert found["same"] == [False, False, True, True]
    assert found["spans"] == [[0, 0.5], [0.5, 1]]
    assert found["pictures"][0] <= EXACT < 1e-3 < found["pictures"][1]


def test_every_prompt_of_many_has_its_own_text(answer):
    assert answer["batches"]["mean"] <= EXACT and answer["batches"]["acts"] > 1e-2


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unstamped", "BadInput: The words of this conditioning are not known"),
        ("joined", "BadInput: The words of this conditioning are not known"),
        ("option", "'lancet' has no option 'lamb'. Its options: lam (0 to 10; default 0.01)"),
        ("gate", "The option 'gate' cannot be 'ajar'. It takes auto | calibrated"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(answer, case, words):
    assert answer["refused"][case].startswith(words)


def test_texts_of_unknown_words_are_left_alone(answer):
    assert answer["refused"]["fine"] is True and answer["refused"]["unknown words are left alone"]

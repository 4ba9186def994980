"""The gate of words in a graph: what is written counts, however weighted and wherever a chunk ends; and it says so when
it has only vectors to go by."""

import pytest

NAMED = ["a red circle", "two Circles", "(circle:0.2)", "((a red circle)) on blue", "a (red (circle:1.3):0.5), blurred"]
NAMED += ["[circle]", "a \\(circle\\)", "a circle", "a disc"]
OTHER = ["a red star", "a semicircle", ""]


@pytest.fixture(scope="module")
def answer(in_comfy, tmp_path_factory):
    return in_comfy("words_of_prompts", folder=str(tmp_path_factory.mktemp("embeddings")))


def test_words_count_and_weights_and_brackets_do_not(answer):
    assert answer["written"] == {prompt: [[[float(prompt in NAMED)]], "exact"] for prompt in NAMED + OTHER}


@pytest.mark.parametrize(("word", "gain"), [("circle", 1.0), ("star", 0.0)])
def test_a_phrase_across_the_seam_of_two_chunks(answer, word, gain):
    found = answer["seam"][word]
    assert found == {"chunks": 2, "seam": ["red</w>", f"{word}</w>"], "gains": [[gain]], "mode": "exact"}


@pytest.mark.parametrize("name", ["concat", "average", "stacked"])
def test_changed_vectors_are_judged_by_likeness(answer, name):
    (((first, *others), mode),) = answer["nodes"][name]
    assert mode == "approximate" and 0.5 < first[0] <= 1
    assert others == ([[0.0]] if name == "stacked" else [])


@pytest.mark.parametrize("name", ["concat, other", "zero"])
def test_changed_vectors_of_other_things_leave_it_closed(answer, name):
    assert answer["nodes"][name] == [[[[0.0]], "approximate"]]


@pytest.mark.parametrize("gate", ["words", "likeness", "either", "both"])
def test_every_gate_opens_for_its_concept_and_is_bitwise_closed_for_others(answer, gate):
    gain, mode, same = answer["gates"][f"{gate}: a red circle"]
    assert (mode, same) == ("exact" if gate in ("words", "either") else "approximate", False)
    assert gain == 1 if mode == "exact" else 0.5 < gain <= 1
    closed = "exact" if gate in ("words", "both") else "approximate"
    assert answer["gates"][f"{gate}: a red star"] == [0.0, closed, True]


def test_nodes_that_keep_the_vectors_keep_the_words(answer):
    assert answer["nodes"]["range"] == [[[[1.0]], "exact"]]
    assert answer["nodes"]["combine"] == [[[[0.0]], "exact"], [[[1.0]], "exact"]]


@pytest.mark.parametrize(
    ("prompt", "shown", "gain"),
    [
        ("a embedding:look circle", "a circle", 1.0),
        ("a embedding:look star", "a star", 0.0),
        ("circle embedding:look circle", "circle circle", 1.0),
    ],
)
def test_a_textual_inversion_in_the_prompt(answer, prompt, shown, gain):
    found = answer["embedding"][prompt]
    assert (found["vectors"], found["text"], found["gains"], found["mode"]) == (2, shown, [[gain]], "exact")
    assert found["off, bitwise"] == (gain == 0)
    assert found["weights"] <= 1e-5

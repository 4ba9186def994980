"""The published gate of SPM against an independent loop, and what it does where nothing is published."""

import pytest
import torch
from transport_reference import cosine, gamma

from erasure_core import BadInput, Membrane
from erasure_core.gates import PromptRow, make_gate, prompt_rows
from erasure_core.transport import METRICS, flat_cosine, make_transport

PROMPTS = ("a red circle", "polka heart dot", "a blue star on a gray background", "circles and a disc", "", "circle")
CONCEPTS = ("circle", "polka dot")
FILLER = ", ".join(["a big green star on a gray background"] * 12)  # more than one chunk of 75 tokens


def row(model, prompt):
    return prompt_rows(model.encode([prompt]))[0]


@pytest.mark.parametrize("metric", METRICS)
def test_gains_equal_the_published_loop(demo, plain, metric):
    for factor in (1.0, 2.0):
        gate = make_transport(CONCEPTS, demo, metric, factor)
        for prompt in PROMPTS:
            assert abs(gate(row(demo, prompt)).gain - gamma(plain, prompt, CONCEPTS, metric, factor)) <= 1e-6


def test_more_concepts_are_the_largest_of_each(demo):
    alone = [make_transport([concept], demo) for concept in CONCEPTS]
    for prompt in PROMPTS:
        read = row(demo, prompt)
        assert make_transport(CONCEPTS, demo)(read).gain == max(gate(read).gain for gate in alone)


@pytest.mark.parametrize(
    "prompt",
    ["polka dot", "Dot, then POLKA", "((polka:1.3) (dot:0.4))", f"{FILLER}, a polka dot", f"polka {FILLER} dot"],
)
def test_all_tokens_of_the_concept_open_it_fully(demo, prompt):
    assert make_transport(["polka dot"], demo)(row(demo, prompt)).gain >= 1.0 - 1e-12


def test_the_cosine_of_itself_is_one_and_others_are_ordered(demo):
    gate = make_transport(["circle"], demo, "clipcos")
    same, near, far = (gate(row(demo, text)).gain for text in ("circle", "a blue heart", FILLER))
    assert same == pytest.approx(1, abs=1e-5)
    assert far < near < same and far != 0  # it is not calibrated: nothing reaches 0


def test_cosines_are_not_clipped():
    rows = torch.randn(77, 8, dtype=torch.float64)
    assert flat_cosine(-rows, rows) == pytest.approx(-1)


def test_a_long_prompt_is_its_best_chunk(demo):
    encoded = demo.encode([f"{FILLER}, a red circle"])
    gate = make_transport(["circle"], demo, "clipcos")
    (concept,) = gate.carriers
    chunks = encoded.hidden[0].split(77)
    assert len(chunks) > 1
    by_hand = max(cosine(concept.rows.tolist(), chunk.tolist()) for chunk in chunks)
    assert abs(gate(prompt_rows(encoded)[0]).gain - by_hand) <= 1e-6


def test_unknown_words_leave_the_cosine_and_say_so(demo):
    rows = demo.encode(["a red circle"]).hidden[0]
    found = {metric: make_transport(["circle"], demo, metric)(PromptRow(rows)) for metric in METRICS[:3]}
    assert {activation.mode for activation in found.values()} == {"approximate"}
    assert len({activation.gain for activation in found.values()}) == 1
    assert found["clipcos"].gain < 1 == make_transport(["circle"], demo)(row(demo, "a red circle")).gain


def test_rows_of_another_length_are_compared_as_far_as_they_go():
    concept = torch.randn(77, 4, dtype=torch.float64)
    short = torch.cat([concept[:30], torch.zeros(47, 4, dtype=torch.float64)])
    assert flat_cosine(concept[:30], concept) == pytest.approx(cosine(short.tolist(), concept.tolist()), abs=1e-12)


def test_it_is_a_gate_of_a_membrane(demo, circle):
    gate = make_gate("transport", ["circle"], [], demo)
    assert gate(row(demo, "a red circle")).gain == 1.0
    assert Membrane(circle, gate="transport").gate == "transport"


def test_what_cannot_be_compared_is_refused(demo):
    for phrases, metric, message in (
        ([], METRICS[0], "Name at least one"),
        ([" "], METRICS[0], "has no token"),
        (["circle"], "cosine", "is one of clipcos_tokenuni, clipcos, tokenuni, allone, not 'cosine'"),
    ):
        with pytest.raises(BadInput, match=message):
            make_transport(phrases, demo, metric)

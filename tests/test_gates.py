"""Gates: what opens them, what does not, and that a closed one changes nothing."""

import dataclasses

import pytest
import torch
from apply_support import picture

from erasure_core import BadInput, Erasure, Membrane, apply, erase
from erasure_core.gates import GATES, PromptRow, content_ids, make_gate, words_of

FILLER = ", ".join(["a big green star on a gray background"] * 12)  # more than one chunk of 75 tokens


@pytest.fixture(scope="module")
def words(demo):
    return make_gate("words", ["circle", "polka dot"], ["star", "red"], demo)


def row(demo, prompt):
    encoded = demo.encode([prompt])
    return PromptRow(encoded.hidden[0], words_of(encoded)[0])


@pytest.mark.parametrize(
    "prompt",
    [
        "circle",
        "a red Circle, striped",
        "two circles",
        "a circle's edge",
        "((a (circle:0.3)))",
        r"a \(circle\)",
        "polka dots on a heart",
        f"{FILLER}, and a circle",
    ],
)
def test_a_prompt_that_names_the_concept_opens_the_gate(demo, words, prompt):
    found = words(row(demo, prompt))
    assert (found.gain, found.mode) == (1.0, "exact")


@pytest.mark.parametrize("prompt", ["", "a red star", "a circlet", "circular", "polka heart dot", "a disc", FILLER])
def test_other_prompts_leave_it_closed(demo, words, prompt):
    found = words(row(demo, prompt))
    assert (found.gain, found.mode) == (0.0, "exact")


def test_a_phrase_that_two_chunks_share_is_found(demo, words):
    # 74 tokens, so that "polka" is the 75th and "dot" begins the next chunk
    for count in range(60, 75):
        prompt = " ".join(["red"] * count) + " , polka dot red"
        encoded = demo.encode([prompt])
        assert words(PromptRow(encoded.hidden[0], words_of(encoded)[0])).gain == 1.0


def test_without_words_vectors_decide_and_it_says_so(demo, words):
    near, far = (words(PromptRow(demo.encode([text]).hidden[0])) for text in ("a blue circle", "a blue heart"))
    assert near.mode == far.mode == "approximate"
    assert near.gain > 0.5 and far.gain == 0.0


def test_repeating_a_short_prompt_does_not_open_it_further(demo, words):
    rows = demo.encode(["a blue circle"]).hidden[0]
    assert words(PromptRow(rows)).gain == words(PromptRow(rows.repeat(3, 1))).gain


def test_always_is_open(demo):
    found = make_gate("always", [], [], demo)(row(demo, "a red star"))
    assert (found.gain, found.mode) == (1.0, "constant")


def test_plain_lists_of_ids_are_read_like_tensors(demo):
    encoded = demo.encode(["a red circle", FILLER])
    chunks = int(encoded.extras["chunks"][1])
    own = encoded.tokens["clip_l"][1, :chunks].tolist()
    assert chunks > 1
    assert content_ids(own, 49407) == words_of(encoded)[1]


def test_each_prompt_of_a_batch_has_its_own_gain(demo, circle):
    prompts = ["a red circle", "a blue star", "a green heart"]
    before = picture(demo, prompts)
    with apply(demo, Membrane(circle, gate="words")):
        gated = picture(demo, prompts)
    with apply(demo, Membrane(circle, gate="always")):
        always = picture(demo, prompts)
    assert torch.equal(gated[1:], before[1:])
    assert not torch.equal(gated[0], before[0])
    assert torch.allclose(gated[0], always[0], atol=1e-5)
    assert not torch.equal(always[1], before[1])  # without the gate unrelated prompts do drift


def test_a_closed_gate_is_bitwise_off_and_an_open_one_is_not(demo, circle):
    before = {prompt: picture(demo, (prompt,)) for prompt in ("a red star", "a red circle")}
    with apply(demo, Membrane(circle, gate="words")):
        assert torch.equal(picture(demo, ("a red star",)), before["a red star"])
        assert not torch.equal(picture(demo, ("a red circle",)), before["a red circle"])


def test_the_negative_prompt_opens_only_its_own_rows(demo, circle):
    def draw(negative):
        return demo.sample(demo.encode(["a red star"]), demo.encode([negative]), seed=1, steps=2)

    before = {text: draw(text) for text in ("a circle", "a heart")}
    with apply(demo, Membrane(circle, gate="words"), rows="all"):
        assert torch.equal(draw("a heart"), before["a heart"])
        assert not torch.equal(draw("a circle"), before["a circle"])
    with apply(demo, Membrane(circle, gate="words"), rows="cond"):
        assert torch.equal(draw("a circle"), before["a circle"])


def test_a_pipeline_that_its_owner_runs_is_gated_by_vectors(demo, circle):
    def run(prompt):
        generator = torch.Generator().manual_seed(0)
        return demo.pipe(prompt, num_inference_steps=2, generator=generator, output_type="pt").images

    before = {prompt: run(prompt) for prompt in ("a red circle", "a green heart")}
    with apply(demo, Membrane(circle, gate="words")):
        assert not torch.equal(run("a red circle"), before["a red circle"])
        assert torch.equal(run("a green heart"), before["a green heart"])


def test_the_receipt_names_gate_and_strength(demo, circle):
    with apply(demo, Membrane(circle, gate="words", strength=0.5, name="mine")) as applied:
        assert applied.receipt.startswith("mine · family sd1")
        assert "strength 0.5 · gate words" in applied.receipt


def test_baked_weights_say_that_they_are_not_gated(demo, circle):
    with apply(demo, Membrane(circle, gate="words"), act_on="weights") as applied:
        assert "the gate 'words' is not used" in applied.receipt
    with apply(demo, Membrane(circle, gate="always"), act_on="weights") as applied:
        assert "is not used" not in applied.receipt


def test_gates_of_other_names_and_files_without_words_are_refused(demo, circle):
    with pytest.raises(BadInput, match=r"A gate is one of auto, calibrated, .* always, not 'soft'"):
        Membrane(circle, gate="soft")
    silent = dataclasses.replace(circle, gate={})
    with pytest.raises(BadInput, match=r"does not say what it erases\. Name it when loading"):
        Membrane(silent, gate="words")
    assert Membrane(Erasure(maps=circle.maps), gate="always").gate in GATES


def test_neighbours_that_contain_the_concept_do_not_close_the_gate(demo):
    kept = ["circle of life", "a star"]
    gate = make_gate("words", ["circle"], kept, demo)
    assert gate(PromptRow(demo.encode(["a circle"]).hidden[0])).gain == 1.0


def test_gates_work_for_several_membranes_with_strengths(demo, circle, heart):
    circle, heart = (dataclasses.replace(e, recipe={}, statistics={}) for e in (circle, heart))  # summed, not joint
    prompts = ["a red circle", "a red heart", "a red star"]
    before = picture(demo, prompts)
    with apply(demo, [Membrane(circle, gate="words", strength=0.7), Membrane(heart, gate="words")]):
        both = picture(demo, prompts)
    for erasure, strength, i in ((circle, 0.7, 0), (heart, 1.0, 1)):
        with apply(demo, Membrane(erasure, strength=strength)):
            assert torch.allclose(picture(demo, prompts)[i], both[i], atol=1e-5)
    assert torch.equal(both[2], before[2])


def test_erasing_with_an_option_text_equals_erasing_with_arguments(demo):
    from erasure_core.closed_form import check_options, erase_with

    by_text = erase_with(demo, "circle -> square", "uce", "lamb=0.1, expand_prompts=no")
    by_name = erase(demo, "circle -> square", lamb=0.1, expand_prompts=False)
    assert torch.equal(by_text.maps["clip_l"].factors[0].up, by_name.maps["clip_l"].factors[0].up)
    assert erase_with(demo, "circle -> square", "uce", "parity=yes").recipe["parity"] is True
    with pytest.raises(BadInput, match="takes the name of a table that comes with Membrane, not the file"):
        check_options("crce", "table=/etc/hosts")
    check_options("crce", "table=coreference")
    for text, message in (
        ("lamb=-1", "cannot be '-1'"),
        ("depth=3", "has no option 'depth'"),
        ("parity=maybe", "takes yes"),
        ("lamb", "is not an option"),
    ):
        with pytest.raises(BadInput, match=message):
            check_options("uce", text)
    with pytest.raises(BadInput, match="Unknown method 'nosuch'"):
        check_options("nosuch", "")

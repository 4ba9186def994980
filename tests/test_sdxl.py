"""SDXL's two text paths and SD2's encoder, on tiny random pipelines of their shapes."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from plain_text import PlainText
from tiny_models import PROJECTION, SIZE_IDS, WIDTHS, tiny_sd2, tiny_sdxl

from erasure_core.closed_form import erase
from erasure_core.embeddings import Pair, select_pairs, select_rows
from erasure_core.erasure import POOLED_WEIGHT, Erasure
from erasure_core.errors import WrongFamily
from erasure_core.gates import PromptRow, make_gate, prompt_rows
from erasure_core.membranes import Membrane, apply
from erasure_core.models import from_pipeline
from erasure_core.solver import EditProblem

CONTEXT = sum(WIDTHS)
PROMPTS = ["a red circle", "", "an unquestionably tangerine pentagram 🔴"]


@pytest.fixture(scope="module")
def sdxl():
    return from_pipeline(tiny_sdxl())


@pytest.fixture(scope="module")
def sd2():
    return from_pipeline(tiny_sd2())


def test_the_family_and_both_text_spaces_are_recognised(sdxl):
    assert sdxl.family == "sdxl"
    assert dict(sdxl.spaces) == {"sdxl_lg": CONTEXT, "sdxl_pooled": PROJECTION}
    assert next(iter(sdxl.spaces)) == "sdxl_lg"
    assert sdxl.clip_skip == 2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encoding_is_the_pipelines_own(sdxl, prompt):
    with torch.no_grad():
        hidden, _, pooled, _ = sdxl.pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    encoded = sdxl.encode([prompt])
    assert encoded.hidden.shape == (1, 77, CONTEXT)
    torch.testing.assert_close(encoded.hidden, hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.pooled, pooled, rtol=0, atol=1e-5)
    for name, own in (("clip_l", sdxl.pipe.tokenizer), ("clip_g", sdxl.pipe.tokenizer_2)):
        ids = own(prompt, padding="max_length", max_length=77)["input_ids"]
        assert encoded.tokens[name][0, 0].tolist() == ids
    assert encoded.tokens["clip_l"][0, 0, -1] == 49407
    assert encoded.tokens["clip_g"][0, 0, -1] == 0
    assert encoded.extras["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]]


def test_rows_are_penultimate_without_the_final_norm(sdxl):
    with torch.no_grad():
        for name, width in (("text_encoder", slice(0, WIDTHS[0])), ("text_encoder_2", slice(WIDTHS[0], CONTEXT))):
            module = getattr(sdxl.pipe, name)
            ids = sdxl.encode(["a red circle"]).tokens["clip_l" if name == "text_encoder" else "clip_g"][:, 0]
            layers = module(ids, output_hidden_states=True).hidden_states
            found = sdxl.encode(["a red circle"]).hidden[..., width]
            torch.testing.assert_close(found, layers[-2], rtol=0, atol=1e-5)
            assert (found - layers[-1]).abs().max() > 0.1


def test_long_prompts_pool_their_first_chunk(sdxl):
    words = "circle " * 75
    encoded = sdxl.encode([words + "star moon", words.strip()])
    assert encoded.hidden.shape == (2, 154, CONTEXT)
    assert torch.equal(encoded.pooled[0], encoded.pooled[1])
    torch.testing.assert_close(encoded.hidden[0, :77], encoded.hidden[1, 77:], rtol=0, atol=1e-6)


def test_pooled_rows_are_the_pooled_vectors(sdxl):
    rows = select_pairs(sdxl, [Pair("a red circle", "a square")], "POOLED")
    encoded = sdxl.encode(["a red circle", "a square"])
    torch.testing.assert_close(rows.erase, encoded.pooled[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.anchors, encoded.pooled[1:], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def erasure(sdxl):
    return erase(sdxl, "circle -> square")


@pytest.fixture(scope="module")
def both(sdxl):
    """The pair solved as exactly as it goes, start token kept: every row from the word on, and the pooled vector."""
    maps = {}
    for space, selector in (("sdxl_lg", "TAIL"), ("sdxl_pooled", "POOLED")):
        rows = select_pairs(sdxl, [Pair("circle", "square")], selector)
        start = select_rows(sdxl, [""], "ALL77")[:1] if space == "sdxl_lg" else None
        maps[space] = EditProblem(rows.erase, rows.anchors, start, ridge=0.0, space=space).solve()
    return Erasure(maps=maps)


def output(model, prompt):
    encoded = model.encode([prompt])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor(400), encoded)


def test_an_erasure_has_a_map_for_each_path(sdxl, erasure):
    assert erasure.maps.keys() == {"sdxl_lg", "sdxl_pooled"}
    assert erasure.maps["sdxl_pooled"].width == PROJECTION
    assert erasure.base["widths"] == {"sdxl_lg": CONTEXT, "sdxl_pooled": PROJECTION}
    assert erase(sdxl, "circle -> square", pooled=False).maps.keys() == {"sdxl_lg"}
    assert erase(sdxl, "circle -> square", parity=True).maps.keys() == {"sdxl_lg"}


@pytest.mark.parametrize("act_on", ["text", "weights"])
def test_only_both_paths_together_close_the_distance_of_a_pair(sdxl, both, act_on):
    goal = output(sdxl, "square")
    distance = {"none": (output(sdxl, "circle") - goal).norm().item()}
    parts = {"both": both}
    parts |= {space: replace(both, maps={space: both.maps[space]}) for space in both.maps}
    for name, erasure in parts.items():
        with apply(sdxl, Membrane(erasure, gate="always"), act_on, rows="all"):
            distance[name] = (output(sdxl, "circle") - goal).norm().item()
    assert distance["none"] > 0.05 * goal.norm().item()
    assert distance["sdxl_lg"] > 0.2 * distance["none"]
    assert distance["sdxl_pooled"] > 0.2 * distance["none"]
    assert distance["both"] < 0.02 * distance["none"]


def test_the_method_itself_brings_a_pair_nearer_by_both_paths_than_by_one(sdxl, erasure):
    goal = output(sdxl, "square")
    distance = {}
    for name in ("sdxl_lg", "sdxl_pooled", "both"):
        part = erasure if name == "both" else replace(erasure, maps={name: erasure.maps[name]})
        with apply(sdxl, Membrane(part, gate="always"), rows="all"):
            distance[name] = (output(sdxl, "circle") - goal).norm().item()
    assert distance["both"] < min(distance["sdxl_lg"], distance["sdxl_pooled"])
    assert max(distance.values()) < (output(sdxl, "circle") - goal).norm().item()


def test_directions_are_closed_on_both_paths(sdxl):
    closed = erase(sdxl, "circle -> square", singular=2)
    for emap in closed.maps.values():
        values = torch.linalg.svdvals(emap.matrix())
        assert (values < 1e-5 * values[0]).sum() == 2


def test_weight_deltas_do_what_the_maps_do(sdxl, erasure):
    with apply(sdxl, Membrane(erasure, gate="always"), "text", rows="all"):
        mapped = output(sdxl, "a circle")
    with apply(sdxl, Membrane(erasure, gate="always"), "weights"):
        baked = output(sdxl, "a circle")
    plain = output(sdxl, "a circle")
    assert (mapped - baked).norm() / mapped.norm() < 1e-5
    assert (mapped - plain).norm() / plain.norm() > 1e-3


def test_the_pooled_delta_leaves_the_size_ids_alone(sdxl, both):
    delta = both.deltas(sdxl.weights())[POOLED_WEIGHT]
    weight = sdxl.pipe.unet.add_embedding.linear_1.weight.detach()
    assert delta.shape == tuple(weight.shape) == (64, PROJECTION + SIZE_IDS)
    assert torch.count_nonzero(delta.dense()[:, PROJECTION:]) == 0
    change = both.maps["sdxl_pooled"].matrix() - torch.eye(PROJECTION)
    expected = weight[:, :PROJECTION].double() @ change
    assert (delta.dense()[:, :PROJECTION] - expected).norm() / expected.norm() < 1e-5


def test_every_transformer_of_every_depth_is_edited(sdxl, both):
    own = {f"unet.{n}" for n, _ in sdxl.pipe.unet.named_parameters() if ".attn2.to_k." in n or ".attn2.to_v." in n}
    assert both.deltas(sdxl.weights()).keys() == own | {POOLED_WEIGHT}
    assert any(".transformer_blocks.1." in name for name in own)


def test_the_map_is_the_published_formula_on_the_joined_rows(sdxl):
    """Last word's row of the first tokenizer's count, both encoders side by side."""
    with torch.no_grad():
        encode = sdxl.pipe.encode_prompt
        c, a = (
            encode(t, device="cpu", do_classifier_free_guidance=False)[0][0, 1].double() for t in ("circle", "square")
        )
    expected = torch.outer(a - c, c) / (0.5 + c @ c)
    change = erase(sdxl, "circle -> square", parity=True).maps["sdxl_lg"].matrix() - torch.eye(CONTEXT)
    assert (change - expected).norm() / expected.norm() < 1e-6


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside the Euler scheduler
def test_sampling_maps_both_paths_of_the_prompt_only(sdxl, both):
    prompt, negative = sdxl.encode(["circle"]), sdxl.encode(["circle"])
    goal = sdxl.encode(["square"])
    expected = sdxl.sample(goal, negative, seed=2, steps=3)
    plain = sdxl.sample(prompt, negative, seed=2, steps=3)
    with apply(sdxl, Membrane(both, gate="always")):
        found = sdxl.sample(prompt, negative, seed=2, steps=3)
    assert (found - expected).norm() < 0.05 * (plain - expected).norm()
    assert torch.equal(sdxl.sample(prompt, negative, seed=2, steps=3), plain)
    assert sdxl.decode(found).shape == (1, 3, 16, 16)


def test_another_familys_erasure_is_refused(sdxl, demo, both):
    with pytest.raises(
        WrongFamily, match=r"clip_l of width 64; this sdxl model has sdxl_lg \(160\), sdxl_pooled \(40\)"
    ):
        apply(sdxl, Membrane(erase(demo, "circle -> square"), gate="always"))
    with pytest.raises(WrongFamily, match="this sd1 model has"):
        apply(demo, Membrane(both, gate="always"))


def test_sd2_encodes_with_padding_zero_and_its_own_last_layer(sd2):
    assert (sd2.family, sd2.clip_skip, dict(sd2.spaces)) == ("sd2", 1, {"clip_h": 48})
    plain = PlainText(sd2.pipe.tokenizer, sd2.pipe.text_encoder, pad=0)
    for prompt in PROMPTS:
        encoded = sd2.encode([prompt])
        assert encoded.tokens["clip_h"][0, 0].tolist() == plain.ids(prompt)
        assert encoded.eos[0, 0] == plain.last(prompt) + 1
        torch.testing.assert_close(encoded.hidden[0], plain.rows(prompt), rtol=0, atol=1e-5)


@pytest.mark.parametrize("act_on", ["text", "weights"])
def test_sd2_erases(sd2, act_on):
    erasure = erase(sd2, "circle -> square", generation="2023", expand_prompts=False, lamb=1e-6, protect=0.0)
    goal = output(sd2, "square")
    before = (output(sd2, "circle") - goal).norm()
    with apply(sd2, Membrane(erasure, gate="always"), act_on, rows="all"):
        after = (output(sd2, "circle") - goal).norm()
    assert before > 0.01 * goal.norm()
    assert after < 0.1 * before
    assert erasure.maps.keys() == {"clip_h"}


@pytest.mark.parametrize("kind", ["calibrated", "transport"])
def test_gates_read_both_encoders_and_long_prompts(sdxl, sd2, kind):
    filler = ", ".join(["a big green star on a gray background"] * 12)
    for model in (sdxl, sd2):
        gate = make_gate(kind, ["circle"], ["star"], model)
        named, long, other = prompt_rows(model.encode(["a red circle", f"{filler}, a red circle", filler]))
        assert gate(named).gain == pytest.approx(1) and gate(long).gain == pytest.approx(1)
        assert gate(other).gain < 1
        assert 0 <= gate(PromptRow(named.rows)).gain <= 1  # words unknown


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside the Euler scheduler
def test_closed_gates_leave_both_paths_bitwise_alone(sdxl, erasure):
    def drawn(prompt):
        return sdxl.sample(sdxl.encode([prompt]), seed=1, steps=1)

    before = {prompt: drawn(prompt) for prompt in ("a red circle", "seven wonderful hats")}
    for gate, chosen in (("words", "words"), ("auto", "calibrated")):
        with apply(sdxl, Membrane(erasure, gate=gate)) as applied:
            after = {prompt: drawn(prompt) for prompt in before}
        assert applied.receipts[0].gate == chosen
        assert not torch.equal(after["a red circle"], before["a red circle"])
        if gate == "words":  # by likeness a random encoder may take anything for anything
            assert torch.equal(after["seven wonderful hats"], before["seven wonderful hats"])

"""Applying membranes to the bundled model: exact undo, equal forms, only the prompt's rows, refusals."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from erasure_core.backends.diffusers import DiffusersModel
from erasure_core.closed_form import erase
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.errors import BadInput, IllConditioned, NothingMatched, WrongBase, WrongFamily
from erasure_core.membranes import Membrane, apply

PROMPT = "a red circle"
NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"
OTHER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
FORMS = [("text", "cond"), ("text", "all"), ("weights", "all")]


@pytest.fixture(scope="module")
def circle(demo):
    return erase(demo, "circle -> square")


@pytest.fixture(scope="module")
def heart(demo):
    return erase(demo, "heart -> star")


def random_delta(name, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return WeightDelta(name, diff=torch.randn(shape, generator=generator) * 0.1)


def weights_of(model):
    parts = {"unet": model.pipe.unet, "text": model.pipe.text_encoder, "vae": model.pipe.vae}
    return {f"{part}.{n}": p.detach().clone() for part, module in parts.items() for n, p in module.named_parameters()}


def picture(model, prompts=(PROMPT,), seed=3):
    return model.decode(model.sample(model.encode(list(prompts)), seed=seed, steps=3))


@pytest.fixture(scope="module")
def base(demo):
    """Every weight and one picture of the untouched model."""
    return weights_of(demo), picture(demo)


@pytest.fixture(autouse=True)
def nothing_remains(demo, base):
    """After every test of this file the shared model is what it was, to the last bit, and draws the same picture."""
    yield
    assert_untouched(demo, base)


def assert_untouched(model, base):
    weights, before = base
    now = weights_of(model)
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    assert torch.equal(picture(model), before)
    assert not model.pipe.unet._forward_pre_hooks


def changed(model, base):
    return not torch.equal(picture(model), base[1])


@pytest.mark.parametrize(("act_on", "rows"), FORMS)
def test_strength_one_changes_the_picture_and_leaving_restores_it(demo, base, circle, act_on, rows):
    with apply(demo, Membrane(circle), act_on, rows):
        assert changed(demo, base)
    assert_untouched(demo, base)


@pytest.mark.parametrize(("act_on", "rows"), FORMS)
def test_strength_zero_and_no_membrane_are_bitwise_off(demo, base, circle, act_on, rows):
    for membranes in (Membrane(circle, strength=0.0), [Membrane(circle, strength=0)] * 2, []):
        with apply(demo, membranes, act_on, rows):
            assert_untouched(demo, base)


def test_undo_twice_is_undo_once(demo, base, circle):
    applied = apply(demo, Membrane(circle), "weights")
    assert changed(demo, base)
    applied.undo()
    applied.undo()
    assert_untouched(demo, base)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_nested_applications_are_undone_in_any_order(demo, base, circle, heart, order):
    alone = []
    for membrane, form in ((circle, "weights"), (heart, "text"), (heart, "weights")):
        with apply(demo, Membrane(membrane), form):
            alone.append(picture(demo))
    applied = [
        apply(demo, Membrane(circle), "weights"),
        apply(demo, Membrane(heart), "text"),
        apply(demo, Membrane(heart), "weights"),
    ]
    for index in order[:-1]:
        applied[index].undo()
    assert torch.equal(picture(demo), alone[order[-1]])
    applied[order[-1]].undo()
    assert_untouched(demo, base)


def test_an_exception_inside_the_block_restores_and_passes_on(demo, base, circle):
    for act_on in ("text", "weights"):
        with pytest.raises(KeyError, match="mine"), apply(demo, Membrane(circle), act_on):
            assert changed(demo, base)
            raise KeyError("mine")
        assert_untouched(demo, base)


def test_an_exception_while_sampling_restores(demo, base, circle):
    def stop(step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), apply(demo, Membrane(circle)):
        demo.sample(demo.encode([PROMPT]), steps=3, callback=stop)
    assert_untouched(demo, base)


def test_a_wrong_shape_in_the_second_delta_changes_nothing(demo, base):
    good = random_delta(NAME, demo.weights()[NAME].shape)
    wrong = random_delta(OTHER, (3, 5))
    with pytest.raises(WrongFamily, match=r"attn2.to_k.weight is \(96, 64\).*\(3, 5\)"):
        apply(demo, Membrane(Erasure(weight_deltas={NAME: good, OTHER: wrong})))
    assert_untouched(demo, base)


def test_a_broken_weight_found_halfway_changes_nothing(fresh):
    with torch.no_grad():
        broken = dict(fresh.pipe.unet.named_parameters())[OTHER.removeprefix("unet.")]
        broken[0, 0] = float("nan")
    live = {name: p.data_ptr() for name, p in fresh.pipe.unet.named_parameters()}
    deltas = {name: random_delta(name, fresh.pipe.unet.get_parameter(name[5:]).shape) for name in (NAME, OTHER)}
    before = fresh.fingerprint
    with pytest.raises(IllConditioned, match="NaN or infinite"):
        apply(fresh, Membrane(Erasure(weight_deltas=deltas)))
    assert fresh.fingerprint == before
    assert {name: p.data_ptr() for name, p in fresh.pipe.unet.named_parameters()} == live


def test_an_unknown_weight_is_refused(demo):
    with pytest.raises(NothingMatched, match=r"no weight unet\.other\.weight"):
        apply(demo, Membrane(Erasure(weight_deltas={"unet.other.weight": random_delta("unet.other.weight", (2, 2))})))


def test_an_empty_erasure_is_refused(demo):
    with pytest.raises(NothingMatched, match="empty"):
        apply(demo, Membrane(Erasure()))


def unet_output(model, hidden):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 8, 8, generator=generator)
    with torch.no_grad():
        return model.pipe.unet(x, 500, encoder_hidden_states=hidden).sample


def by_hand(model, change):
    """The U-Net's output with ``change(name, weight)`` added to every key and value matrix, without the core."""
    unet = copy.deepcopy(model.pipe.unet)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".attn2.to_k." in name or ".attn2.to_v." in name:
                parameter += change(f"unet.{name}", parameter)
    return unet


@pytest.mark.parametrize("options", [{}, {"generation": "2023", "exact": True}])
def test_map_on_text_baked_weights_and_lora_factors_agree(demo, options):
    erasure = erase(demo, "circle -> square", **options)
    hidden = demo.encode([PROMPT, "a blue heart"]).hidden
    plain = unet_output(demo, hidden)
    with apply(demo, Membrane(erasure), "text", rows="all"):
        on_text = unet_output(demo, hidden)
    with apply(demo, Membrane(erasure), "weights"):
        baked = unet_output(demo, hidden)
    t = erasure.maps["clip_l"].matrix()
    mapped_by_hand = unet_output(demo, (hidden.double() @ t.T).float())
    deltas = erasure.deltas(demo.weights())
    outputs = {"baked": (baked, 1e-5), "by hand": (mapped_by_hand, 1e-5)}
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 2e-4)):
        factors = {n: (d.up.to(dtype).float(), d.down.to(dtype).float()) for n, d in deltas.items()}
        model = DiffusersModel(copy.copy(demo.pipe))
        model.pipe.unet = by_hand(demo, lambda name, w, f=factors: f[name][0] @ f[name][1])
        outputs[f"lora {dtype}"] = (unet_output(model, hidden), tolerance)
    effect = (on_text - plain).norm() / plain.norm()
    assert effect > 0.01
    for name, (output, tolerance) in outputs.items():
        error = ((output - on_text).norm() / on_text.norm()).item()
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("strength", [0.3, 1.7, -0.5])
def test_strength_scales_the_change_of_maps_and_weights_alike(demo, circle, strength):
    hidden = demo.encode([PROMPT, "a blue heart"]).hidden
    change = circle.maps["clip_l"].matrix() - torch.eye(64)
    expected = unet_output(demo, (hidden.double() @ (torch.eye(64) + strength * change).T).float())
    for act_on in ("text", "weights"):
        with apply(demo, Membrane(circle, strength=strength), act_on, rows="all"):
            found = unet_output(demo, hidden)
        assert (found - expected).norm() / expected.norm() < 1e-5


def hand_sampled(model, hidden, negative, seed, steps=3, cfg=5.0):
    """A sampling loop of its own: what the rows of prompt and negative are is up to the caller."""
    scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(seed)) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            inputs = scheduler.scale_model_input(torch.cat([x, x]), t)
            low, high = model.pipe.unet(inputs, t, encoder_hidden_states=torch.cat([negative, hidden])).sample.chunk(2)
            x = scheduler.step(low + cfg * (high - low), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("rows", ["cond", "all"])
def test_cond_leaves_the_negative_prompt_alone(demo, circle, rows):
    hidden, negative = demo.encode([PROMPT]).hidden, demo.encode(["a circle"]).hidden
    t = circle.maps["clip_l"].matrix().float()
    expected = hand_sampled(demo, hidden @ t.T, negative @ t.T if rows == "all" else negative, seed=5)
    with apply(demo, Membrane(circle), rows=rows):
        found = demo.sample(demo.encode([PROMPT]), demo.encode(["a circle"]), seed=5, steps=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    other = hand_sampled(demo, hidden @ t.T, negative if rows == "all" else negative @ t.T, seed=5)
    assert (found - other).abs().max() > 0.1


def test_without_guidance_every_row_is_the_prompts(demo, circle):
    hidden = demo.encode([PROMPT])
    plain = demo.sample(hidden, seed=5, steps=3, cfg=1.0)
    found = []
    for rows in ("cond", "all"):
        with apply(demo, Membrane(circle), rows=rows):
            found.append(demo.sample(hidden, seed=5, steps=3, cfg=1.0))
    assert torch.equal(*found)
    assert not torch.equal(found[0], plain)


def test_a_call_of_the_pipeline_itself_sees_the_map(demo, circle):
    def call(**text):
        generator = torch.Generator().manual_seed(4)
        options = {"num_inference_steps": 3, "guidance_scale": 5.0, "output_type": "latent", "generator": generator}
        return demo.pipe(**text, **options).images

    t = circle.maps["clip_l"].matrix().float()
    hidden, empty = demo.encode([PROMPT]).hidden, demo.encode([""]).hidden
    expected = call(prompt_embeds=hidden @ t.T, negative_prompt_embeds=empty @ t.T)
    plain = call(prompt=PROMPT)
    with apply(demo, Membrane(circle)):
        found = call(prompt=PROMPT)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found - plain).abs().max() > 0.05
    assert torch.equal(call(prompt=PROMPT), plain)


def test_a_batch_of_one_is_its_picture_in_a_batch_of_several(demo, circle):
    prompts = [PROMPT, "a blue star", "a green moon on a pink background"]
    for membranes in ([], [Membrane(circle)]):
        with apply(demo, membranes):
            together = demo.decode(demo.sample(demo.encode(prompts), seed=[7, 8, 9], steps=3))
            for i, prompt in enumerate(prompts):
                alone = demo.decode(demo.sample(demo.encode([prompt]), seed=7 + i, steps=3))
                assert (together[i] - alone[0]).abs().max() <= 1e-4


def test_two_membranes_act_one_after_the_other(demo, circle, heart):
    hidden = demo.encode([PROMPT, "a blue heart"]).hidden
    first, second = (e.maps["clip_l"].matrix() for e in (circle, heart))
    expected = unet_output(demo, (hidden.double() @ (second @ first).T).float())
    with apply(demo, [Membrane(circle), Membrane(heart)], rows="all"):
        found = unet_output(demo, hidden)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_key_only_and_value_only_maps_go_into_those_weights(demo, circle):
    for applies in ("k", "v"):
        with apply(demo, Membrane(replace(circle, applies=applies))) as applied:
            for name, parameter in demo.pipe.unet.named_parameters():
                if ".attn2.to_k." in name or ".attn2.to_v." in name:
                    original = demo.weights()[f"unet.{name}"]
                    assert torch.equal(parameter, original) != (f".to_{applies}." in name)
            assert "4 of 4 layers" in applied.receipt
            assert "acts on weights" in applied.receipt


def test_weights_read_while_applied_are_the_originals(demo, circle):
    before = demo.weights()[NAME]
    with apply(demo, Membrane(circle), "weights"):
        assert torch.equal(demo.weights()[NAME], before)
        assert not torch.equal(demo.pipe.unet.get_parameter(NAME[5:]), before)
        assert torch.equal(erase(demo, "circle -> square").maps["clip_l"].matrix(), circle.maps["clip_l"].matrix())


def test_the_receipt_says_what_was_matched(demo, circle):
    numbers = circle.diagnostics["clip_l"]
    with apply(demo, Membrane(circle)) as applied:
        assert "family sd1 · 8 of 8 layers" in applied.receipt
        assert "acts on text" in applied.receipt
        assert applied.receipts[0].norm == numbers["norm"]
        assert applied.receipts[0].drift == numbers["drift"]
        assert applied.receipts[0].rank == circle.rank
    with apply(demo, []) as applied:
        assert applied.receipt == "no membrane applied"


def small_map(space, width):
    return Erasure(maps={space: EmbeddingMap(space, (MapFactor(torch.ones(1, width), torch.ones(width, 1)),))})


@pytest.mark.parametrize(("space", "width"), [("clip_l", 768), ("clip_h", 64), ("sdxl_lg", 2048), ("sdxl_pooled", 64)])
@pytest.mark.parametrize("act_on", ["text", "weights"])
def test_another_family_or_width_is_refused(demo, space, width, act_on):
    with pytest.raises(WrongFamily, match=rf"{space} of width {width}; this sd1 model has clip_l \(64\)"):
        apply(demo, Membrane(small_map(space, width)), act_on)


def test_another_text_encoder_is_refused(fresh, circle):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fresh.pipe.text_encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    before = fresh.fingerprint
    for act_on in ("text", "weights"):
        with pytest.raises(WrongBase, match="another text encoder"):
            apply(fresh, Membrane(circle), act_on)
    assert fresh.fingerprint == before


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "strong", None])
def test_a_strength_that_is_no_number_is_refused(circle, strength):
    with pytest.raises(BadInput, match="strength"):
        Membrane(circle, strength=strength)


@pytest.mark.parametrize("options", [{"act_on": "image"}, {"rows": "some"}])
def test_unknown_words_list_the_known_ones(demo, circle, options):
    with pytest.raises(BadInput, match=r"act_on is one of auto, text, weights|'cond' or 'all'"):
        apply(demo, Membrane(circle), **options)


class EightBitLinear(nn.Module):
    """A linear layer as quantisers make it: int8 numbers and a scale."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        whole = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)

    def forward(self, x):
        return x @ (self.weight.float() * self.scale).T


@pytest.fixture
def quantised(fresh):
    for module in list(fresh.pipe.unet.modules()):
        if hasattr(module, "to_k") and module.to_k.in_features == 64 and module.to_v.in_features == 64:
            module.to_k, module.to_v = EightBitLinear(module.to_k), EightBitLinear(module.to_v)
    return DiffusersModel(fresh.pipe)


def test_quantised_weights_take_maps_on_the_text(quantised, circle):
    assert quantised.pipe.unet.get_parameter(NAME[5:]).dtype == torch.int8
    before = picture(quantised)
    with apply(quantised, Membrane(circle), "text"):
        mapped = picture(quantised)
    assert (mapped - before).abs().max() > 0.05
    assert torch.equal(picture(quantised), before)


def test_quantised_weights_are_not_overwritten(quantised, circle):
    before = quantised.fingerprint
    with pytest.raises(BadInput, match=r"quantised \(torch.int8\).*act_on='text'"):
        apply(quantised, Membrane(circle), "weights")
    assert quantised.fingerprint == before


def test_an_erasure_can_be_made_on_quantised_weights(quantised, circle):
    erasure = erase(quantised, "circle -> square", generation="2023")
    assert erasure.maps["clip_l"].rank >= 1
    assert erasure.diagnostics["clip_l"]["energy_of"] == "text"


def test_weights_with_nan_are_refused_and_kept(fresh, circle):
    with torch.no_grad():
        fresh.pipe.unet.get_parameter(NAME[5:])[0, 0] = float("nan")
    before = fresh.fingerprint
    with pytest.raises(IllConditioned, match=r"to_v.weight holds NaN.*intact checkpoint"):
        apply(fresh, Membrane(circle), "weights")
    assert fresh.fingerprint == before


def test_half_precision_weights_are_restored_bitwise(fresh, circle):
    fresh.pipe.unet.to(torch.bfloat16)
    before = fresh.fingerprint
    hidden = fresh.encode([PROMPT]).hidden.bfloat16()
    with apply(fresh, Membrane(circle), "weights"):
        parameter = fresh.pipe.unet.get_parameter(NAME[5:])
        assert parameter.dtype == torch.bfloat16
        assert fresh.fingerprint != before
    with apply(fresh, Membrane(circle), "text", rows="all"), torch.no_grad():
        x = torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16)
        assert fresh.pipe.unet(x, 500, encoder_hidden_states=hidden).sample.dtype == torch.bfloat16
    assert fresh.fingerprint == before

"""One erasure, several forms: map on the text, baked weights, LoRA factors, single pictures and batches."""

import copy
import dataclasses

import pytest
import torch
from apply_support import PROMPT

from erasure_core.backends.diffusers import DiffusersModel
from erasure_core.closed_form import erase
from erasure_core.membranes import Membrane, apply


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
    with apply(demo, Membrane(erasure, gate="always"), "text", rows="all"):
        on_text = unet_output(demo, hidden)
    with apply(demo, Membrane(erasure, gate="always"), "weights"):
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
        with apply(demo, Membrane(circle, strength=strength, gate="always"), act_on, rows="all"):
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
    with apply(demo, Membrane(circle, gate="always"), rows=rows):
        found = demo.sample(demo.encode([PROMPT]), demo.encode(["a circle"]), seed=5, steps=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    other = hand_sampled(demo, hidden @ t.T, negative if rows == "all" else negative @ t.T, seed=5)
    assert (found - other).abs().max() > 0.1


def test_without_guidance_every_row_is_the_prompts(demo, circle):
    hidden = demo.encode([PROMPT])
    plain = demo.sample(hidden, seed=5, steps=3, cfg=1.0)
    found = []
    for rows in ("cond", "all"):
        with apply(demo, Membrane(circle, gate="always"), rows=rows):
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
    with apply(demo, Membrane(circle, gate="always")):
        found = call(prompt=PROMPT)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (found - plain).abs().max() > 0.05
    assert torch.equal(call(prompt=PROMPT), plain)


def test_a_batch_of_one_is_its_picture_in_a_batch_of_several(demo, circle):
    prompts = [PROMPT, "a blue star", "a green moon on a pink background"]
    for membranes in ([], [Membrane(circle, gate="always")]):
        with apply(demo, membranes):
            together = demo.decode(demo.sample(demo.encode(prompts), seed=[7, 8, 9], steps=3))
            for i, prompt in enumerate(prompts):
                alone = demo.decode(demo.sample(demo.encode([prompt]), seed=7 + i, steps=3))
                assert (together[i] - alone[0]).abs().max() <= 1e-4


def test_maps_without_rows_or_recipe_are_summed_in_either_form_and_say_so(demo, circle, heart):
    circle, heart = (dataclasses.replace(e, recipe={}, statistics={}) for e in (circle, heart))
    hidden = demo.encode([PROMPT, "a blue heart"]).hidden
    first, second = Membrane(circle, gate="always"), Membrane(heart, strength=0.6, gate="always")
    change = sum(m.strength * (m.erasure.maps["clip_l"].matrix() - torch.eye(64)) for m in (first, second))
    expected = unet_output(demo, (hidden.double() @ (torch.eye(64) + change).T).float())
    outputs = []
    for pair in ([first, second], [second, first]):
        for form in ("text", "weights"):
            with apply(demo, pair, form, rows="all") as applied:
                outputs.append(unet_output(demo, hidden))
            assert applied.receipt.count("summed, not joint") == 2
    with apply(demo, first, rows="all") as one, apply(demo, second, rows="all"):
        outputs.append(unet_output(demo, hidden))
    assert "summed" not in one.receipt
    for output in outputs:
        assert (output - expected).norm() / expected.norm() <= 1e-5
    alone = unet_output(demo, (hidden.double() @ circle.maps["clip_l"].matrix().T).float())
    assert (alone - expected).norm() / expected.norm() > 1e-3

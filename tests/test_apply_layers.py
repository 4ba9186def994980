"""Changes of weights that act by gates: on the negative prompt's row, in parts of the sampling, baked in on request."""

import dataclasses

import pytest
import torch
from apply_support import NAME, PROMPT, assert_untouched, picture, weights_of
from chain_reference import changed_unet
from test_chain import erasers_on, error, membrane_on

from erasure_core.erasure import Erasure
from erasure_core.errors import BadInput, NothingMatched
from erasure_core.membranes import Membrane, apply

KINDS = (".attn2", "proj_in", "conv1")


@pytest.fixture(scope="module")
def base(demo):
    return weights_of(demo), picture(demo)


@pytest.fixture
def eraser(demo):
    """A low-rank erasure of 'circle', as SPM's files are read."""
    return Erasure(weight_deltas=membrane_on(demo.pipe.unet, 1, 21, KINDS), gate={"phrases": ["circle"]})


def sampled(model, prompts, negative=("",), **more):
    return model.sample(
        model.encode(list(prompts)), model.encode(list(negative)), seed=[5] * len(prompts), steps=4, **more
    )


def by_hand(model, changed, prompt, negative, gains, cfg=5.0, steps=4):
    """A sampling loop of its own; ``gains(progress)`` -> of the prompt's row and of the negative's."""
    scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(5)) * scheduler.init_noise_sigma
    rows = [model.encode([text]).hidden for text in (prompt, negative)]
    with torch.no_grad():
        for t in scheduler.timesteps:
            inputs = scheduler.scale_model_input(x, t)
            outs = []
            for hidden, gain in zip(rows, gains(1 - float(t) / 999), strict=True):
                unet = changed_unet(model.pipe.unet, [gain], [changed])
                outs.append(unet(inputs.double(), t, encoder_hidden_states=hidden.double()).sample.float())
            x = scheduler.step(outs[1] + cfg * (outs[0] - outs[1]), t, x, return_dict=False)[0]
    return x


def test_run_time_and_baked_in_are_the_same_change(demo, eraser, base):
    plain = sampled(demo, [PROMPT])
    with apply(demo, Membrane(eraser, gate="always"), rows="all") as applied:
        late = sampled(demo, [PROMPT])
        assert all(torch.equal(p, base[0][f"unet.{n}"]) for n, p in demo.pipe.unet.named_parameters())
        assert "acts on layers" in applied.receipt
    with apply(demo, Membrane(eraser, gate="always"), "weights") as applied:
        baked = sampled(demo, [PROMPT])
        assert "acts on weights" in applied.receipt
    assert error(late, baked.double()) <= 1e-5 and error(plain, baked.double()) > 0.05
    assert_untouched(demo, base)


@pytest.mark.parametrize("kind", ["eraser", "receler", "both"])
def test_a_prompt_that_does_not_name_the_concept_stays_bitwise_the_same(demo, eraser, base, kind):
    if kind != "eraser":
        weights = eraser.weight_deltas if kind == "both" else {}
        erasers = erasers_on(demo.pipe.unet, 3, 4)
        eraser = dataclasses.replace(eraser, weight_deltas=weights, bottlenecks=erasers)
    prompts = ["a blue heart", "a red circle"]
    plain = [sampled(demo, [prompt]) for prompt in prompts]
    with apply(demo, Membrane(eraser, gate="words")):
        found = [sampled(demo, [prompt]) for prompt in prompts]
        together = sampled(demo, prompts)
    assert torch.equal(found[0], plain[0]) and not torch.equal(found[1], plain[1])
    assert error(together, torch.cat(found).double()) <= 1e-5
    assert_untouched(demo, base)


def test_the_negative_prompt_follows_the_positive_ones_gain(demo, eraser):
    for prompt, negative, gains in ((PROMPT, "", (1, 1)), ("a blue heart", "a circle", (0, 0))):
        with apply(demo, Membrane(eraser, gate="words")):
            found = sampled(demo, [prompt], [negative])
        assert error(found, by_hand(demo, eraser.weight_deltas, prompt, negative, lambda p, g=gains: g)) <= 1e-5
    with apply(demo, Membrane(eraser, gate="words"), rows="all"):
        found = sampled(demo, ["a blue heart"], ["a circle"])
    assert error(found, by_hand(demo, eraser.weight_deltas, "a blue heart", "a circle", lambda p: (0, 1))) <= 1e-5


def test_it_acts_in_its_part_of_the_sampling_alone(demo, eraser, circle):
    def gains(progress):
        return (0.7 if 0.3 <= progress <= 0.8 else 0,) * 2

    with apply(demo, Membrane(eraser, gate="always", strength=0.7, start=0.3, end=0.8)) as applied:
        found = sampled(demo, [PROMPT])
    assert "from 0.3 to 0.8 of the sampling" in applied.receipt
    expected = by_hand(demo, eraser.weight_deltas, PROMPT, "", gains)
    assert error(found, expected) <= 1e-5
    assert error(sampled(demo, [PROMPT]), expected) > 1e-3
    with apply(demo, Membrane(circle, start=0.0, end=0.4)):
        early = sampled(demo, [PROMPT])
    with apply(demo, Membrane(circle, start=0.0, end=1.0)):
        always = sampled(demo, [PROMPT])
    assert not torch.equal(early, always) and not torch.equal(early, sampled(demo, [PROMPT]))
    for start, end in ((0.5, 0.5), (-0.1, 1), (0.8, 0.2), (float("nan"), 1)):
        with pytest.raises(BadInput, match="start < end"):
            Membrane(circle, start=start, end=end)


def test_gain_power_and_chain_mode_are_checked_and_act(demo, eraser):
    with apply(demo, Membrane(eraser, gate="always", strength=0.5), chain_mode="official_compat"):
        found = sampled(demo, [PROMPT])
    assert error(found, by_hand(demo, eraser.weight_deltas, PROMPT, "", lambda p: (0.25, 0.25))) <= 1e-5
    for options in ({"chain_mode": "product"}, {"gain_power": 3}):
        with pytest.raises(BadInput, match=r"chain_mode|gain_power"):
            apply(demo, Membrane(eraser, gate="always"), **options)


def test_whole_differences_that_act_always_are_baked_in_and_gated_ones_are_not(demo, base):
    whole = Erasure(weight_deltas=membrane_on(demo.pipe.unet, 0, 3, KINDS, diff=True), gate={"phrases": ["circle"]})
    heart = picture(demo, ["a blue heart"])
    with apply(demo, Membrane(whole, gate="always")) as applied:
        assert "acts on weights" in applied.receipt
        constant = sampled(demo, [PROMPT])
    with apply(demo, Membrane(whole, gate="words")) as applied:
        assert "acts on layers" in applied.receipt
        assert error(sampled(demo, [PROMPT]), constant.double()) <= 1e-5
        assert torch.equal(picture(demo, ["a blue heart"]), heart)
    assert_untouched(demo, base)


def test_key_only_maps_act_on_those_layers(demo, circle, base):
    for applies in ("k", "v"):
        erasure = dataclasses.replace(circle, applies=applies)
        with apply(demo, Membrane(erasure), rows="all"):
            late = sampled(demo, [PROMPT])
        with apply(demo, Membrane(erasure), "weights"):
            baked = sampled(demo, [PROMPT])
        assert error(late, baked.double()) <= 1e-5
        assert error(sampled(demo, [PROMPT]), baked.double()) > 1e-3
    assert_untouched(demo, base)


def test_what_no_weight_can_hold_is_not_baked_in(demo, base):
    erasure = Erasure(bottlenecks=erasers_on(demo.pipe.unet, 3, 4))
    with pytest.raises(BadInput, match="Receler"):
        apply(demo, Membrane(erasure), "weights")
    name = "unet.nowhere.attn2"
    strange = {name: dataclasses.replace(next(iter(erasure.bottlenecks.values())), name=name)}
    with pytest.raises(NothingMatched, match="no attention"):
        apply(demo, Membrane(Erasure(bottlenecks=strange)))
    assert NAME and torch.equal(picture(demo), base[1])


def test_maps_in_any_order_draw_bitwise_the_same_picture(demo):
    from erasure_core.closed_form import erase

    maps = [erase(demo, text) for text in ("circle -> square", "heart -> star", "red -> blue", "cross -> moon")]
    for erasures in (maps, [dataclasses.replace(e, recipe={}, statistics={}) for e in maps]):  # jointly, and summed
        pictures = []
        for order in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)):
            with apply(demo, [Membrane(erasures[i]) for i in order]):
                pictures.append(picture(demo))
        assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])
        assert not torch.equal(pictures[0], picture(demo))

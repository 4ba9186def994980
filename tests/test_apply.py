"""Applying membranes to the bundled model and taking them off again: off and undone to the last bit."""

from dataclasses import replace

import pytest
import torch
from apply_support import NAME, OTHER, PROMPT, assert_untouched, picture, random_delta, weights_of

from erasure_core.closed_form import erase
from erasure_core.erasure import Erasure
from erasure_core.errors import WrongFamily
from erasure_core.membranes import Membrane, apply

FORMS = [("text", "cond"), ("text", "all"), ("weights", "all")]


@pytest.fixture(scope="module")
def base(demo):
    """Every weight and one picture of the untouched model."""
    return weights_of(demo), picture(demo)


@pytest.fixture(autouse=True)
def nothing_remains(demo, base):
    """After every test of this file the shared model is what it was, to the last bit, and draws the same picture."""
    yield
    assert_untouched(demo, base)


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


def test_key_only_and_value_only_maps_go_into_those_weights(demo, circle):
    for applies in ("k", "v"):
        with apply(demo, Membrane(replace(circle, applies=applies)), "weights") as applied:
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

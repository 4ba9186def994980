"""What every closed-form method promises, and the published formula in double precision."""

import json

import closed_form_support as support
import torch
from apply_support import picture

from erasure_core import Membrane, apply
from erasure_core.closed_form import erase
from erasure_core.join import erase_again


def matrices(model, letters="kv"):
    """The denoiser's own cross-attention matrices in float64, read without the core."""
    return {name: weight.double() for name, weight in support.matrices(model, letters).items()}


def assert_published(erasure, model, edited, tolerance=1e-6):
    """Every matrix' change is that of ``edited(weight)``, relative to its size; ``weight`` is float64."""
    support.assert_edited(erasure, model, lambda weight: edited(weight.double()), tolerance=tolerance)


def same(one, other):
    """Equal to the last bit in everything, changes of weights included."""
    return (
        support.same(one, other, recipe=True)
        and one.applies == other.applies
        and one.weight_deltas.keys() == other.weight_deltas.keys()
        and all(torch.equal(d.dense(), other.weight_deltas[n].dense()) for n, d in one.weight_deltas.items())
    )


def assert_order_is_nothing_and_the_recipe_everything(model, method, lines, kept, **options):
    """The same erasure bit by bit in another order, and from its recipe as it comes out of a file."""
    made = erase(model, lines, method, preserve=kept, **options)
    assert made.maps or made.weight_deltas
    assert same(made, erase(model, lines[::-1], method, preserve=kept[::-1], **options))
    assert same(made, erase_again(model, json.loads(json.dumps(made.recipe))))
    assert not same(made, erase(model, lines[:-1], method, preserve=kept, **options))
    return made


def assert_off_is_off_and_on_is_on(model, erasure, prompts=("a red circle",)):
    """Strength 0 changes no bit of a picture, strength 1 changes it, and after that all is as before."""
    before = picture(model, prompts)
    with apply(model, Membrane(erasure, strength=0.0, gate="always")):
        assert torch.equal(picture(model, prompts), before)
    with apply(model, Membrane(erasure, gate="always")):
        assert (picture(model, prompts) - before).abs().max() > 0.1
    assert torch.equal(picture(model, prompts), before)

"""What cannot be applied is refused before anything changes; quantised and half-precision weights."""

import pytest
import torch
from apply_support import NAME, OTHER, PROMPT, picture, random_delta
from torch import nn

from erasure_core.backends.diffusers import DiffusersModel
from erasure_core.closed_form import erase
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor
from erasure_core.errors import BadInput, IllConditioned, NothingMatched, WrongBase, WrongFamily
from erasure_core.membranes import Membrane, apply


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
    closed = erase(quantised, "circle -> square", singular=1)
    assert closed.diagnostics["clip_l"]["outputs_of"] == "text"
    assert torch.linalg.svdvals(closed.maps["clip_l"].matrix())[-1] < 1e-5


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


@pytest.mark.parametrize("thing", ["circle", 3, type("Old", (), {"schema": "membrane/0", "erasure": None})()])
def test_what_is_no_membrane_is_refused_by_its_mark(demo, thing):
    with pytest.raises(BadInput, match=r"This is no membrane of version 1 but (str|int|membrane/0)"):
        apply(demo, [thing])


def test_a_membrane_of_another_copy_of_the_package_is_taken(demo, circle):
    """A host holds its own copy of the package beside one that is installed; classes differ, the mark does not."""
    fields = {"schema": "membrane/1", "erasure": circle, "strength": 1.0, "gate": "always", "label": "from elsewhere"}
    other = type("Membrane", (), fields)()
    with apply(demo, other) as applied:
        assert "from elsewhere" in applied.receipt

"""Every trained method in a tiny pipeline, and files of sliders as published."""

import math

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_sd2

from erasure_core import load, save
from erasure_core.errors import BadInput
from erasure_core.keys.families import FAMILIES
from erasure_core.training import explain, train
from erasure_core.training.scopes import layers_in


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("diffusers")
    from erasure_core.models import from_pipeline

    return from_pipeline(tiny_sd2())


@pytest.mark.parametrize("name", ["slider", "leco", "ace", "sdd", "ablating", "ant"])
def test_every_method_makes_an_erasure(model, name):
    made = train(model, "circle -> square", name, preserve=["moon"], steps=1, grid=3, draws=2, pool=1, size=64)
    assert made.recipe["method"] == name and made.recipe["steps"] == 1
    assert made.weight_deltas and all(torch.isfinite(d.up).all() for d in made.weight_deltas.values())
    assert name in explain(name)


def test_a_sliders_file_has_the_published_names(model, tmp_path):
    """Concept Sliders' own: kohya names with an alpha of 1, one per layer, nothing of cross-attention."""
    made = train(model, "circle", "slider", steps=1, grid=3, draws=1, size=64, word_anchors=0, alpha=1.0)
    save(made, tmp_path / "slider.safetensors")
    with safe_open(tmp_path / "slider.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("lora_")}  # noqa: SIM118
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    resnet = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert tensors[f"{layer}.lora_down.weight"].shape == (4, 32) and tensors[f"{layer}.lora_up.weight"].shape == (32, 4)
    assert tensors[f"{resnet}.lora_down.weight"].shape == (4, 16, 3, 3)
    assert tensors[f"{resnet}.lora_up.weight"].shape == (16, 4, 1, 1)
    assert float(tensors[f"{layer}.alpha"]) == float(tensors[f"{resnet}.alpha"]) == 1.0
    assert len(tensors) == 3 * len(made.weight_deltas)
    again = load(tmp_path / "slider.safetensors")
    for name, delta in made.weight_deltas.items():
        same = again.weight_deltas[name]
        assert torch.equal(same.down, delta.down) and torch.equal(same.up, delta.up) and same.scale == delta.scale


def test_the_scope_of_both_attentions_and_resnets():
    shapes = FAMILIES["sd1"].shapes()
    parts = [set(layers_in(shapes, scope)) for scope in ("slider", "xattn")]
    assert set(layers_in(shapes, "c3lier")) == parts[0] | parts[1] and not parts[0] & parts[1]


def test_sliders_begin_as_published(model):
    made = train(model, "circle", "slider", steps=1, grid=3, draws=1, lr=1e-8, size=64, word_anchors=0, alpha=1.0)
    layers = [delta for name, delta in made.weight_deltas.items()]
    assert not any(".attn2." in name or ".ff." in name for name in made.weight_deltas)
    assert any(".resnets." in name for name in made.weight_deltas)
    for delta in layers:
        bound = math.sqrt(3 / delta.down[0].numel())
        assert delta.scale == 0.25 and delta.down.abs().max() <= bound + 1e-6
    widest = max(layers, key=lambda d: d.down.numel())
    assert widest.down.abs().max() > 0.9 * math.sqrt(3 / widest.down[0].numel())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ace", {"gamma": "pictures"}, "gamma"),
        ("slider", {"action": "swap"}, "erase | enhance"),
        ("ant", {"split": 2}, "split"),
        ("ant", {"mask": 0.5}, "set form=weights"),
        ("ablating", {"target": "both"}, "model | noise"),
    ],
)
def test_wrong_settings_are_refused(model, name, options, message):
    with pytest.raises(BadInput, match=message):
        train(model, "circle", name, **options)

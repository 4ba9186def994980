"""ComfyUI's own LoRA loader takes every key of our export, and patches the weights we say it does."""

import pytest
from host_support import ask, needs_host

pytestmark = needs_host

CHECK = """
import json
import logging
import torch
import comfy.lora, comfy.model_management as mm, comfy.model_patcher, comfy.supported_models, comfy.utils
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.formats import load, save
from erasure_core.keys import family_of

UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1, 1],
            channel_mult=[1, 2, 2], transformer_depth=[1, 1, 0], transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1, 0, 0], use_spatial_transformer=True, legacy=False, context_dim=64,
            use_linear_in_transformer=False, adm_in_channels=None, use_temporal_attention=False)


class Tiny(comfy.supported_models.SD15):
    unet_config = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}


def build():
    config = Tiny(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    net = config.get_model({}, "", device=mm.unet_offload_device())
    torch.manual_seed(0)
    shapes = {k.removeprefix("diffusion_model."): v.shape for k, v in net.state_dict().items()
              if k.startswith("diffusion_model.")}
    net.load_model_weights({k: torch.randn(s) / 8 for k, s in shapes.items()}, "")
    return comfy.model_patcher.ModelPatcher(net, mm.get_torch_device(), mm.unet_offload_device())


class Ear(logging.Handler):
    heard = []

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            self.heard.append(record.getMessage())


logging.getLogger().addHandler(Ear())
with torch.inference_mode(False):
    patcher = build()
state = patcher.model.state_dict()
family = family_of({k: v.shape for k, v in state.items() if k.startswith("diffusion_model.")})
names = {ours: theirs for ours, theirs in family.host_names().items() if theirs in state}
weights = {ours: state[theirs] for ours, theirs in names.items()}
torch.manual_seed(1)
factor = MapFactor(torch.randn(2, 64) / 8, torch.randn(64, 2) / 8)
conv = "unet.down_blocks.0.resnets.0.conv2.weight"
point = "unet.mid_block.attentions.0.proj_in.weight"
deltas = [
    WeightDelta(conv, down=torch.randn(3, 32, 3, 3) / 8, up=torch.randn(32, 3, 1, 1) / 8, scale=0.5),
    WeightDelta(point, down=torch.randn(1, 64, 1, 1) / 8, up=torch.randn(64, 1, 1, 1) / 8),
    WeightDelta("unet.conv_in.weight", diff=torch.randn(32, 4, 3, 3) / 8, scale=2.0),
    WeightDelta("unet.conv_in.bias", diff=torch.randn(32) / 8),
]
erasure = Erasure(maps={"clip_l": EmbeddingMap("clip_l", (factor,))}, weight_deltas={d.name: d for d in deltas},
                  base={"family": family.name})
answer = {"family": family.name, "weights": len(weights)}
for form, dtype in (("lora", torch.float32), ("lora", torch.float16), ("native", torch.float32)):
    path = save(erasure, TARGET, form, weights, dtype)
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    key_map = comfy.lora.model_lora_keys_unet(patcher.model, {})
    Ear.heard.clear()
    patches = comfy.lora.load_lora(tensors, key_map)
    heard = list(Ear.heard)
    clone = patcher.clone()
    taken = clone.add_patches(patches)
    expected = erasure.deltas(weights) if form == "lora" else {d.name: d for d in deltas}
    worst = 0.0
    for ours, delta in expected.items():
        key = names[ours]
        patched = comfy.lora.calculate_weight(clone.patches[key], weights[ours].clone(), key)
        if delta.diff is not None:
            change = delta.diff.double() * delta.scale
        else:
            change = (delta.up.double().flatten(1) @ delta.down.double().flatten(1)).reshape(delta.shape) * delta.scale
        worst = max(worst, float((patched.double() - weights[ours].double() - change).abs().max()))
    answer[f"{form} {dtype}"] = {"heard": heard, "taken": len(taken), "expected": len(expected), "worst": worst,
                                 "keys": sorted(taken) == sorted(names[n] for n in expected)}
print("ANSWER " + json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    return ask(CHECK, TARGET=str(tmp_path_factory.mktemp("lora") / "x.safetensors"))


def test_the_hosts_tiny_model_is_recognised(answer):
    assert answer["family"] == "sd1" and answer["weights"] == 324


@pytest.mark.parametrize(("dtype", "tolerance"), [("torch.float32", 1e-5), ("torch.float16", 2e-3)])
def test_the_host_takes_every_key_of_our_lora(answer, dtype, tolerance):
    found = answer[f"lora {dtype}"]
    assert found["heard"] == []  # no "lora key not loaded"
    assert found["keys"] and found["taken"] == found["expected"] == 2 * 7 + 4
    assert found["worst"] < tolerance


def test_the_native_file_of_deltas_is_a_lora_for_the_host(answer):
    found = answer["native torch.float32"]
    assert found["heard"] == ["lora key not loaded: map.clip_l.down", "lora key not loaded: map.clip_l.up"]
    assert found["keys"] and found["worst"] < 1e-5

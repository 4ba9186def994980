"""Our LoRA and native files as the host's own LoRA loader reads them."""

import comfy.lora
import comfy.utils
import tiny
import torch
from ear import Ear

from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.formats import save
from erasure_core.keys import family_of

CONV = "unet.down_blocks.0.resnets.0.conv2.weight"
POINT = "unet.mid_block.attentions.0.proj_in.weight"


def an_erasure(family):
    torch.manual_seed(1)
    factor = MapFactor(torch.randn(2, 64) / 8, torch.randn(64, 2) / 8)
    deltas = [
        WeightDelta(CONV, down=torch.randn(3, 32, 3, 3) / 8, up=torch.randn(32, 3, 1, 1) / 8, scale=0.5),
        WeightDelta(POINT, down=torch.randn(1, 64, 1, 1) / 8, up=torch.randn(64, 1, 1, 1) / 8),
        WeightDelta("unet.conv_in.weight", diff=torch.randn(32, 4, 3, 3) / 8, scale=2.0),
        WeightDelta("unet.conv_in.bias", diff=torch.randn(32) / 8),
    ]
    maps = {"clip_l": EmbeddingMap("clip_l", (factor,))}
    return Erasure(maps=maps, weight_deltas={d.name: d for d in deltas}, base={"family": family})


def change_of(delta):
    """The change in float64, reckoned here."""
    if delta.diff is not None:
        return delta.diff.double() * delta.scale
    return (delta.up.double().flatten(1) @ delta.down.double().flatten(1)).reshape(delta.shape) * delta.scale


def main(target):
    ear, patcher = Ear(), tiny.unet()
    state = patcher.model.state_dict()
    family = family_of({k: v.shape for k, v in state.items() if k.startswith("diffusion_model.")})
    names = {ours: slot.key for ours, slot in family.host_slots().items() if slot.key in state}
    weights = {ours: state[theirs] for ours, theirs in names.items()}
    erasure = an_erasure(family.name)
    answer = {"family": family.name, "weights": len(weights)}
    for form, dtype in (("lora", torch.float32), ("lora", torch.float16), ("native", torch.float32)):
        path = save(erasure, target, form, weights, dtype)
        ear.heard.clear()
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(patcher.model, {}))
        clone = patcher.clone()
        taken = clone.add_patches(patches)
        expected = erasure.deltas(weights) if form == "lora" else erasure.weight_deltas
        worst = 0.0
        for ours, delta in expected.items():
            key = names[ours]
            patched = comfy.lora.calculate_weight(clone.patches[key], weights[ours].clone(), key)
            error = patched.double() - weights[ours].double() - change_of(delta)
            worst = max(worst, float(error.abs().max()))
        answer[f"{form} {dtype}"] = {
            "heard": list(ear.heard),
            "taken": len(taken),
            "expected": len(expected),
            "worst": worst,
            "keys": sorted(taken) == sorted(names[n] for n in expected),
        }
    return answer

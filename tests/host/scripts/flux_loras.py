"""LoRA files for Flux in the graph: ours against ComfyUI's own loader, and both against the formula."""

import comfy.lora
import comfy.sd
import comfy.utils
import graph
import tiny
import torch
from ear import Ear
from safetensors.torch import save_file

from erasure_core.formats import load, save
from erasure_core.membranes import Membrane

W, INNER, RANK = 64, 256, 3
SIGMAS = (1.0, 0.6, 0.2)
# diffusers name of a module -> weight of the authors' code and its rows, as published; widths of the tiny model
ATTENTION = {
    "transformer_blocks.1.attn.to_q": ("double_blocks.1.img_attn.qkv", 0, W),
    "transformer_blocks.1.attn.to_v": ("double_blocks.1.img_attn.qkv", 2 * W, W),
    "transformer_blocks.1.attn.to_out.0": ("double_blocks.1.img_attn.proj", 0, W),
    "transformer_blocks.1.attn.to_add_out": ("double_blocks.1.txt_attn.proj", 0, W),
    "transformer_blocks.0.attn.add_q_proj": ("double_blocks.0.txt_attn.qkv", 0, W),
    "transformer_blocks.0.attn.add_k_proj": ("double_blocks.0.txt_attn.qkv", W, W),
    "transformer_blocks.0.attn.add_v_proj": ("double_blocks.0.txt_attn.qkv", 2 * W, W),
    "single_transformer_blocks.2.attn.to_k": ("single_blocks.2.linear1", W, W),
}
OTHERS = {
    "transformer_blocks.1.ff.net.0.proj": ("double_blocks.1.img_mlp.0", 0, INNER),
    "transformer_blocks.1.ff_context.net.2": ("double_blocks.1.txt_mlp.2", 0, W),
    "transformer_blocks.0.norm1.linear": ("double_blocks.0.img_mod.lin", 0, 6 * W),
    "transformer_blocks.0.norm1_context.linear": ("double_blocks.0.txt_mod.lin", 0, 6 * W),
    "single_transformer_blocks.0.proj_mlp": ("single_blocks.0.linear1", 3 * W, INNER),
    "single_transformer_blocks.0.proj_out": ("single_blocks.0.linear2", 0, W),
    "single_transformer_blocks.0.norm.linear": ("single_blocks.0.modulation.lin", 0, 3 * W),
    "x_embedder": ("img_in", 0, W),
    "context_embedder": ("txt_in", 0, W),
    "time_text_embed.text_embedder.linear_1": ("vector_in.in_layer", 0, W),
    "norm_out.linear": ("final_layer.adaLN_modulation.1", None, 2 * W),  # scale and shift in the other order
}
TEXT = "text_model.encoder.layers.1.self_attn.v_proj"


def pairs(modules, state, seed=3):
    """Random factors of each module, (down, up); inputs as wide as the weight is."""
    made, result = torch.Generator().manual_seed(seed), {}
    for module, (theirs, _, height) in modules.items():
        width = state[f"diffusion_model.{theirs}.weight"].shape[1]
        down = torch.randn(RANK, width, generator=made) * width**-0.5
        result[module] = (down, torch.randn(height, RANK, generator=made) * 0.4)
    return result


def by_formula(state, factors, scale, modules):
    """Every weight that changes in float64: rows of the authors' matrices plus ``scale up down``."""
    result = {}
    for module, (down, up) in factors.items():
        theirs, start, height = modules[module]
        key = f"diffusion_model.{theirs}.weight"
        whole = result.setdefault(key, state[key].double().clone())
        change = scale * up.double() @ down.double()
        if start is None:
            half = height // 2
            whole[:half] += change[half:]
            whole[half:] += change[:half]
        else:
            whole[start : start + height] += change
    return result


def patched(model, clip, bare):
    """Every patched weight of both, as the host reckons it from the ``bare`` weights."""
    result = {}
    for patcher in (model, clip.patcher):
        for key, patches in patcher.patches.items():
            result[key] = comfy.lora.calculate_weight(patches, bare[key].clone(), key)
    return result


def distance(found, wanted):
    """Largest relative distance over the weights; infinite if others were changed."""
    if found.keys() != wanted.keys():
        return float("inf")
    return max(float((found[k].double() - w).norm() / w.norm()) for k, w in wanted.items())


def kohya_of_the_authors(state, clip_state, seed=4):
    """A LoRA on every matrix of blocks by the authors' names, as kohya trains them, and on one of the text encoder's.

    Also what each changed weight is, by the formula; alpha is half the rank.
    """
    made, tensors, wanted = torch.Generator().manual_seed(seed), {}, {}
    keys = [k for k in state if "_blocks." in k and k.endswith(".weight") and state[k].ndim == 2]
    stems = {
        k: "lora_unet_" + k.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_") for k in keys
    }
    text = f"clip_l.transformer.{TEXT}.weight"
    stems[text] = "lora_te1_" + TEXT.replace(".", "_")
    for key, stem in stems.items():
        weight = clip_state[key] if key == text else state[key]
        down = torch.randn(RANK, weight.shape[1], generator=made) * weight.shape[1] ** -0.5
        up = torch.randn(weight.shape[0], RANK, generator=made) * 0.2
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.5)}
        wanted[key] = weight.double() + 0.5 * up.double() @ down.double()
    return tensors, wanted


def named(factors, head, dotted):
    """The file's tensors under PEFT or kohya names; kohya with alpha 1."""
    tensors = {}
    for module, (down, up) in factors.items():
        if dotted:
            tensors |= {f"{head}{module}.lora_A.weight": down, f"{head}{module}.lora_B.weight": up}
        else:
            stem = head + module.replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    return tensors


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


class Bench:
    """One tiny model, and what becomes of it under a file."""

    def __init__(self, kind, folder):
        self.model, self.clip, self.folder = tiny.unet(kind), tiny.text_encoder(kind), folder
        self.state = copied(self.model.model.state_dict())  # the host patches the tensors themselves
        self.clip_state = copied(self.clip.cond_stage_model.state_dict())
        self.ear = Ear()
        self.bare = {**self.state, **self.clip_state}
        self.plain = self.answers(self.model, self.clip)

    def answers(self, model, clip):
        return graph.predictions(model, *graph.text_pair(clip, "a red circle"), batch=1, sigmas=SIGMAS)

    def stock(self, path):
        """The host's own loader, and how many keys it did not load."""
        self.ear.heard.clear()
        found = comfy.sd.load_lora_for_models(self.model, self.clip, comfy.utils.load_torch_file(path), 1.0, 1.0)
        return found, len(self.ear.heard)

    def ours(self, path):
        erasure = load(path, base=self.bare)
        return erasure, graph.apply(self.model, self.clip, [Membrane(erasure, gate="always")], act_on="weights")

    def compare(self, tensors, wanted, name):
        path = f"{self.folder}/{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        erasure, mine = self.ours(path)
        stock, unloaded = self.stock(path)
        seen = self.answers(*mine)
        answer = {
            "deltas": len(erasure.weight_deltas),
            "method": erasure.recipe["method"],
            "notes": sorted(erasure.diagnostics),
            "ours, formula": distance(patched(*mine, self.bare), wanted),
            "stock did not load": unloaded,
            "acts": graph.difference(seen, self.plain),
            "stock": graph.difference(self.answers(*stock), seen),
            "base afterwards, bitwise": graph.same(self.answers(self.model, self.clip), self.plain),
        }
        for form in ("native", "lora"):
            written = save(erasure, f"{self.folder}/{name}-{form}", form)
            stock, lost = self.stock(str(written))
            answer[form] = {"not loaded": lost, "formula": distance(patched(*stock, self.bare), wanted)}
        return answer


def main(kind, folder):
    bench = Bench(kind, folder)
    everything = {**ATTENTION, **OTHERS}
    factors = pairs(everything, bench.state)
    attention = {module: factors[module] for module in ATTENTION}
    keys = {module: factors[module] for module in ATTENTION if "add_q" in module or "add_k" in module}
    once = by_formula(bench.state, factors, 1.0, everything)
    tensors, wanted = kohya_of_the_authors(bench.state, bench.clip_state)
    return {
        "kohya": bench.compare(tensors, wanted, "kohya"),
        "peft": bench.compare(named(factors, "transformer.", True), once, "peft"),
        "eraseanything": bench.compare(
            named(keys, "transformer.", True), by_formula(bench.state, keys, 1.0, everything), "eraseanything"
        ),
        "slider": bench.compare(
            named(attention, "lora_unet_", False), by_formula(bench.state, attention, 1 / RANK, everything), "slider"
        ),
    }

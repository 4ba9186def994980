"""A user's LoRA on attention and text encoder beside a membrane, before and after it in the graph."""

import comfy.lora
import comfy.sd
import graph
import tiny
import torch


def random_lora(model, clip, seed=5, rank=4, size=0.3):
    """A LoRA under kohya names on every attention of the U-Net and of the text encoder."""
    made, tensors = torch.Generator().manual_seed(seed), {}
    unet = {k: v for k, v in model.model.state_dict().items() if "attn" in k and k.endswith("weight") and "to_" in k}
    names = comfy.lora.model_lora_keys_unet(model.model, {}) | comfy.lora.model_lora_keys_clip(
        clip.cond_stage_model, {}
    )
    kohya = {target: name for name, target in names.items() if name.startswith(("lora_unet_", "lora_te"))}
    text = {k: v for k, v in clip.cond_stage_model.state_dict().items() if "self_attn" in k and k.endswith("weight")}
    for target, weight in {**unet, **text}.items():
        name = kohya[target]
        down = torch.randn(rank, weight.shape[1], generator=made) * weight.shape[1] ** -0.5
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], rank, generator=made) * size * rank**-0.5
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def change_of_the_bare_weights(model, membrane):
    """``W D Y`` for every matrix that reads text, SDXL's label included, from the weights without any LoRA."""
    state, patches = model.model.state_dict(), {}
    for space, emap in membrane.erasure.maps.items():
        (factor,) = emap.factors
        change = factor.up.double() @ factor.down.double()
        if space == "sdxl_pooled":
            weight = state["diffusion_model.label_emb.0.0.weight"].double()
            wide = torch.zeros_like(weight)
            wide[:, : len(change)] = weight[:, : len(change)] @ change
            patches["diffusion_model.label_emb.0.0.weight"] = ("diff", (wide.float(),))
        else:
            names = [name for name in state if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
            patches |= {name: ("diff", ((state[name].double() @ change).float(),)) for name in names}
    return patches


def orders(model, clip):
    some = graph.membranes(model, clip)
    lora = random_lora(model, clip)

    def add(pair):
        return comfy.sd.load_lora_for_models(*pair, lora, 0.7, 0.1)

    def ours(pair, act_on):
        return graph.apply(*pair, some, "all", act_on)

    plain = (model, clip)
    graphs = {
        "nothing": plain,
        "membrane only": ours(plain, "text"),
        "lora only": add(plain),
        "lora, text": ours(add(plain), "text"),
        "text, lora": add(ours(plain, "text")),
        "lora, weights": ours(add(plain), "weights"),
        "weights, lora": add(ours(plain, "weights")),
    }
    by_hand = add(plain)
    assert len(by_hand[0].add_patches(change_of_the_bare_weights(model, some[0]))) >= 14
    graphs["by hand"] = by_hand
    made = {}
    for name, (unet, encoder) in graphs.items():
        prompts = graph.text(encoder, "a red circle"), graph.text(encoder, "blurred")
        made[name] = graph.predictions(unet, *prompts)
    text = made["lora, text"]
    stamped = graph.text(graphs["text, lora"][1], "a red circle")[0][1]["membrane_tokens"]["text"]
    return {
        "lora acts": graph.difference(made["lora only"], made["nothing"]),
        "membrane acts": graph.difference(text, made["lora only"]),
        "both act": graph.difference(text, made["membrane only"]),
        "text in both orders, bitwise": graph.same(made["text, lora"], text),
        "lora, weights": graph.difference(made["lora, weights"], text),
        "weights, lora": graph.difference(made["weights, lora"], text),
        "weights, lora, by hand": graph.difference(made["weights, lora"], made["by hand"]),
        "stamp behind a lora": stamped,
    }


def main():
    return {kind: orders(tiny.unet(kind), tiny.text_encoder(kind)) for kind in tiny.KINDS}

"""What the tests of applying share: names of two weights, small deltas, pictures, and "nothing has changed"."""

import torch

from erasure_core.erasure import WeightDelta

PROMPT = "a red circle"
NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"
OTHER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def random_delta(name, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return WeightDelta(name, diff=torch.randn(shape, generator=generator) * 0.1)


def weights_of(model):
    parts = {"unet": model.pipe.unet, "text": model.pipe.text_encoder, "vae": model.pipe.vae}
    return {f"{part}.{n}": p.detach().clone() for part, module in parts.items() for n, p in module.named_parameters()}


def picture(model, prompts=(PROMPT,), seed=3):
    return model.decode(model.sample(model.encode(list(prompts)), seed=seed, steps=3))


def assert_untouched(model, base):
    weights, before = base
    now = weights_of(model)
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    assert torch.equal(picture(model), before)
    assert not model.pipe.unet._forward_pre_hooks

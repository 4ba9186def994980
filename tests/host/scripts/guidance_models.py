"""Negative Guidance with other families, a ControlNet, inpainting, and guiders of three texts of the host's own."""

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import control
import graph
import node_helpers
import tiny
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from negative_guidance import guided

from nodes import ControlNetApplyAdvanced

CFG = 3.0
_OF_PICTURE = {"c_concat", "control"}  # what the host makes of the picture; all else of a text's own


class TinyInpaint(tiny.Tiny1):
    unet = {**tiny.Tiny1.unet, "in_channels": 9}  # noqa: RUF012 - the host's form


tiny.KINDS["inpaint"] = TinyInpaint


def draw(model, pair, latent=None, mask=None):
    latent = graph.empty(model) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 1)
    more = {"noise_mask": mask, "seed": 1, "disable_pbar": True}
    return comfy.sample.sample(model, noise, 6, CFG, "euler", "normal", *pair, latent, **more)


def by_hand(model, clip, text="circle"):
    """u + w (c - n) written out; n is the negative's conditioning with another text."""
    clone, found = model.clone(), []

    def call(args):
        x, network, base = args["input"], args["model"], args["uncond"][0]
        if not found:
            given = {"positive": [dict(one) for one in comfy.sampler_helpers.convert_cond(graph.text(clip, text))]}
            found.extend(comfy.samplers.process_conds(network, x, given, x.device, latent_image=x)["positive"])
        own = {name: one for name, one in found[0]["model_conds"].items() if name not in _OF_PICTURE}
        other = {**base, "model_conds": {**base["model_conds"], **own}}
        alone = {"transformer_options": {}}
        n = comfy.samplers.calc_cond_batch(network, [[other]], x, args["sigma"], alone)[0].double()
        c, u = args["cond_denoised"].double(), args["uncond_denoised"].double()
        return (u + CFG * (c - n)).to(x)

    clone.set_model_sampler_post_cfg_function(call, disable_cfg1_optimization=True)
    return clone


def compared(model, clip, pair, **more):
    """Difference of the node from the formula, size of its effect, and whether off is bitwise off."""
    base, found = draw(model, pair, **more), draw(guided(model, clip, options="ramp=0"), pair, **more)
    return [
        graph.difference(found, draw(by_hand(model, clip), pair, **more)),
        graph.difference(found, base),
        graph.same(draw(guided(model, clip, strength=0.0), pair, **more), base),
    ]


def family(kind):
    model, clip = tiny.unet(kind), tiny.text_encoder(kind)
    return compared(model, clip, graph.text_pair(clip, "a red circle"))


def stored(name):
    """Weights of a smaller type, computed in float32: both nodes act, are off bitwise, and finite at every level."""
    model, clip = tiny.unet("sdxl", dtype=getattr(torch, name), cast=torch.float32), tiny.text_encoder("sdxl")
    pair = graph.text_pair(clip, "a red circle")
    base = draw(model, pair)
    negatives = {
        method: [
            draw(graph.node("AttentionNegative", model, method, "circle", s, 0.0, 1.0, options, clip)[0], pair)
            for s in (0.0, 1.0)
        ]
        for method, options in {"vsf": "", "nag": "", "adavd": "curve=none"}.items()  # random words are not alike
    }
    return {
        "guidance": compared(model, clip, pair),
        "attention": {
            method: [graph.same(off, base), graph.difference(on, base), bool(torch.isfinite(on).all())]
            for method, (off, on) in negatives.items()
        },
    }


def controlled(kind):
    """On both prompts: the further text is drawn under the same ControlNet."""
    model, clip, net = tiny.unet(kind), tiny.text_encoder(kind), control.control_net(kind)
    image = torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(3))
    pair = graph.text_pair(clip, "a red circle")
    both = ControlNetApplyAdvanced().apply_controlnet(*pair, net, image, 0.8, 0.0, 1.0)
    without = draw(guided(model, clip, options="ramp=0"), pair)
    return [*compared(model, clip, both), graph.difference(draw(guided(model, clip), both), without)]


def inpainted(kind):
    """A model that reads mask and picture, or any model with a mask on its latent: what is outside stays."""
    model, clip = tiny.unet(kind), tiny.text_encoder(kind)
    made = torch.Generator().manual_seed(5)
    latent, mask = torch.randn((2, 4, 8, 8), generator=made), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    pair = graph.text_pair(clip, "a red circle")
    if kind == "inpaint":
        values = {"concat_latent_image": latent[:1], "concat_mask": mask}
        pair = tuple(node_helpers.conditioning_set_values(one, values) for one in pair)
    found = draw(guided(model, clip), pair, latent=latent, mask=mask)
    return [
        *compared(model, clip, pair, latent=latent, mask=mask),
        float((found - latent)[..., 4:].abs().max()),
    ]


def three_texts():
    """Guiders that evaluate three texts: drawn as without the node, which says so."""
    model, clip = graph.node("DemoModel")[:2]
    conds = [graph.text(clip, text) for text in ("a red circle", "a blue star", "")]
    on, result = guided(model, clip, unique_id="7"), {}
    noise, sampler = graph.noise_for(model), comfy.samplers.sampler_object("euler")
    for name, kind, scales in (("dual", Guider_DualCFG, (4.0, 3.0)), ("perp-neg", Guider_PerpNeg, (4.0, 1.0))):

        def sample(patched, kind=kind, scales=scales):
            guider = kind(patched)
            guider.set_conds(*conds)
            guider.set_cfg(*scales)
            return guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor([3.0, 1.0, 0.0]), seed=1)

        with graph.events() as sent:
            found = sample(on)
        result[name] = [graph.same(found, sample(model)), [data["warning"] for _, data in sent]]
    return result


def main():
    return {
        "families": {kind: family(kind) for kind in ("sd1", "sd2", "sdxl", "flux-dev", "flux-schnell")},
        "stored": {name: stored(name) for name in ("float16", "bfloat16", "float8_e4m3fn")},
        "control": {kind: controlled(kind) for kind in ("sd1", "sdxl")},
        "inpainting": {kind: inpainted(kind) for kind in ("inpaint", "sd1")},
        "three texts": three_texts(),
    }

"""Negative Guidance with every sampler and kind of model, against the formulas written out."""

import comfy.sampler_helpers
import comfy.samplers
import comfy_extras.nodes_model_advanced as advanced
import graph
import tiny
import torch
from negative_guidance import CFG, draw, guided, inside

SAMPLERS = ("euler", "dpmpp_2m", "heun", "euler_ancestral")


def kinds():
    """The demo model, and a network of random weights read as v and as a flow."""
    model, clip = graph.node("DemoModel")[:2]
    toy, encoder = tiny.unet("sd1"), tiny.text_encoder("sd1")
    return {
        "eps": (model, clip),
        "v": (advanced.ModelSamplingDiscrete().patch(toy, "v_prediction", False)[0], encoder),
        "flow": (advanced.ModelSamplingSD3().patch(toy, shift=3.0)[0], encoder),
    }


def by_hand(model, clip, text, pair, sampler, formula):
    """Pictures with guidance written out: ``formula(c, u, n, x, sigma, memory)`` of x0 predictions in float64."""
    level = model.get_model_object("model_sampling")
    clone, ready, memory = model.clone(), {}, {}
    found = comfy.sampler_helpers.convert_cond(graph.text(clip, text))

    def call(args):
        x, network = args["input"], args["model"]
        if "conds" not in ready:
            given = {"positive": [dict(one) for one in found]}
            ready["conds"] = comfy.samplers.process_conds(network, x, given, x.device)["positive"]
        alone = {"transformer_options": {}}
        n = comfy.samplers.calc_cond_batch(network, [ready["conds"]], x, args["timestep"], alone)[0]
        sigma = float(args["sigma"].max())
        given = (t.double() for t in (args["cond_denoised"], args["uncond_denoised"], n, x))
        return x - formula(*given, sigma, level, memory).to(x)

    clone.set_model_sampler_cfg_function(call)
    return draw(clone, pair, sampler)


def negation(c, u, n, x, sigma, level, memory):
    """From 0.17 to 0.5: u + w (c - n)."""
    return u + CFG * (c - n) if inside(level, sigma, 0.17, 0.5) else u + CFG * (c - u)


def sld(c, u, n, x, sigma, level, memory):
    """s_S = 2, lambda = 1, s_m = 0.5, beta = 0.7, no warm-up; q = (x - d) / sigma."""
    q_c, q_u, q_s = (x - c) / sigma, (x - u) / sigma, (x - n) / sigma
    phi = (2.0 * (q_c - q_s).abs()).clamp(max=1.0)
    mu = torch.where(q_c - q_s < 1.0, phi, torch.zeros_like(phi))
    # a level that a sampler looks at twice starts both times from what the level before has left
    higher = [level for level in memory if level > sigma * (1 + 1e-5)]
    nu = memory[min(higher)] if higher else torch.zeros_like(q_c)
    gamma = mu * (q_s - q_u) + 0.5 * nu
    memory[sigma] = 0.7 * nu + 0.3 * gamma
    return x - sigma * (q_u + CFG * (q_c - q_u - gamma))


def perp_neg(c, u, n, x, sigma, level, memory):
    """u + w (c - perp) for each picture by itself."""
    result = []
    for i in range(len(c)):
        along, away = c[i] - u[i], n[i] - u[i]
        perp = away - (away * along).sum() / (along * along).sum() * along
        result.append(u[i] + CFG * (along - perp))
    return torch.stack(result)


FORMULAS = {
    "negation": (negation, {"mode": "surgical", "options": "ramp=0"}),
    "sld": (sld, {"method": "sld", "options": "preset=max, guidance_scale=2"}),
    "perp_neg": (perp_neg, {"method": "perp_neg", "options": "ramp=0"}),
}


def main():
    result = {}
    for kind, (model, clip) in kinds().items():
        pair = graph.text_pair(clip, "a red circle", "")
        for sampler in SAMPLERS:
            base = draw(model, pair, sampler)
            for name, (formula, given) in FORMULAS.items():
                found = draw(guided(model, clip, **given), pair, sampler)
                other = by_hand(model, clip, "circle", pair, sampler, formula)
                result[f"{kind}, {sampler}, {name}"] = [graph.difference(found, other), graph.difference(found, base)]
    return result

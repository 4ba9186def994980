"""Samplers of many kinds, and guiders with other lists of prompts than positive and negative."""

import comfy.patcher_extension
import comfy.samplers
import graph
import torch
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from regions import mapped

SAMPLERS = ("euler", "dpmpp_2m", "heun", "euler_ancestral", "uni_pc", "dpmpp_2s_ancestral", "lcm", "ddim")
PROMPTS = {
    "positive": "a red circle",
    "negative": "a blue circle",
    "middle": "a green circle",
    "concept": "a yellow circle",
    "empty_negative_prompt": "circle",
}


class Concept(comfy.samplers.CFGGuider):
    """A guider of another pack: a third prompt, and an order of its own."""

    def set_conds(self, positive, negative, concept):
        self.inner_set_conds({"concept": concept, "negative": negative, "positive": positive})

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[role] for role in ("concept", "positive", "negative")]
        concept, positive, negative = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options
        )
        return negative + 3 * (positive - negative) - (concept - negative)


def samplers(model, clip, some):
    """Latents on the text against latents with edited weights, at CFG 5, and one with CFG 1."""
    forms = [graph.apply(model, clip, some, act_on=act_on)[0] for act_on in ("text", "weights")]
    prompts = graph.text(clip, PROMPTS["positive"]), graph.text(clip, "blurred")
    result = {}
    for name, cfg in [*((name, 5.0) for name in SAMPLERS), ("euler", 1.0)]:
        made = [graph.draw(form, *prompts, sampler=name, cfg=cfg, batch=1) for form in (*forms, model)]
        again = graph.draw(forms[0], *prompts, sampler=name, cfg=cfg, batch=1)
        result[f"{name} {cfg:g}"] = {
            "acts": graph.difference(made[0], made[2]),
            "weights": graph.difference(made[1], made[0]),
            "again, bitwise": graph.same(again, made[0]),
        }
    return result


def treated(model, raw, some, guider):
    """Role -> whether its prompt reached the U-Net "spared" (bitwise) or "mapped", in one sampling by ``guider``."""
    contexts = []

    def look(executor, x, timesteps, context, *args, **kwargs):
        contexts.append(context.clone())
        return executor(x, timesteps, context, *args, **kwargs)

    spied = guider.model_patcher
    spied.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "last", look)
    noise = graph.noise_for(model, batch=2)
    sampler = comfy.samplers.sampler_object("euler")
    guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor([3.0, 1.0]), disable_pbar=True, seed=1)
    found = {}
    for row in torch.cat(contexts):
        for role, rows in raw.items():
            if graph.same(row, rows[0]):
                found.setdefault(role, set()).add("spared")
            elif graph.difference(row[None], mapped(rows, some[0])) < 1e-6:
                found.setdefault(role, set()).add("mapped")
    return {role: sorted(how) for role, how in sorted(found.items())}


def guiders(model, clip, some, rows):
    encoder = graph.apply(model, clip, some, rows)[1]
    given = {role: graph.text(encoder, prompt) for role, prompt in PROMPTS.items()}
    raw = {role: conditioning[0][0] for role, conditioning in given.items()}
    kinds = {
        "CFG": (comfy.samplers.CFGGuider, ("positive", "negative")),
        "basic": (Guider_Basic, ("positive",)),
        "dual": (Guider_DualCFG, ("positive", "middle", "negative")),
        "perp-neg": (Guider_PerpNeg, ("positive", "negative", "empty_negative_prompt")),
        "another pack's": (Concept, ("positive", "negative", "concept")),
    }
    result = {}
    for name, (kind, roles) in kinds.items():
        guider = kind(graph.apply(model, clip, some, rows)[0].clone())
        guider.set_conds(*(given[role] for role in roles))
        if name == "dual":
            guider.set_cfg(4.0, 3.0)
        elif name == "perp-neg":
            guider.set_cfg(4.0, 1.0)
        elif name == "CFG":
            guider.set_cfg(4.0)
        result[name] = treated(model, raw, some, guider)
    return result


def main():
    model, clip, _ = graph.node("DemoModel")
    some = graph.membranes(model, clip)
    return {
        "samplers": samplers(model, clip, some),
        "guiders": {rows: guiders(model, clip, some, rows) for rows in ("cond", "all")},
    }

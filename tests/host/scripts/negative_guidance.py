"""Negative Guidance in a graph: off, costs, several of them, beside other nodes, stopped, shown, refused."""

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import graph
import torch

STEPS, CFG, BATCH = 8, 5.0, 2


def guided(
    model, clip, text="circle", method="negation", strength=1.0, mode="whole", span=(0.0, 1.0), options="", **more
):
    return graph.node("NegativeGuidance", model, clip, text, method, strength, mode, *span, options, **more)[0]


def draw(model, pair, sampler="euler", cfg=CFG, seed=1, batch=BATCH, steps=STEPS):
    return graph.draw(model, *pair, seed=seed, batch=batch, steps=steps, sampler=sampler, cfg=cfg)


def counted(model):
    """A clone, and the number of texts in each call of its network."""
    rows, clone = [], model.clone()

    def call(function, args):
        rows.append(len(args["cond_or_uncond"]))
        return function(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(call)
    return clone, rows


def inside(level, sigma, start, end):
    high, low = (float(level.percent_to_sigma(p)) for p in (start, end))
    return (start <= 0 or sigma <= high * (1 + 1e-6)) and (end >= 1 or sigma > low * (1 + 1e-6))


def off():
    """Bitwise as without the node, and that it acts."""
    model, clip = graph.node("DemoModel")[:2]
    pair, result = graph.text_pair(clip, "a red circle", ""), {}
    cases = {
        "strength": {"strength": 0.0},
        "empty window": {"span": (0.5, 0.5)},
        "outside the mode": {"mode": "robust", "span": (0.4, 1.0)},
        "no concept": {"text": "# nothing"},
        "its own setting": {"method": "sld", "options": "guidance_scale=0.5"},
    }
    for cfg in (1.0, CFG):
        for sampler in ("euler", "heun"):
            base = draw(model, pair, sampler, cfg)
            for name, given in cases.items():
                found = draw(guided(model, clip, **given), pair, sampler, cfg)
                result[f"{name}, {sampler}, {cfg:g}"] = graph.same(found, base)
            result[f"on, {sampler}, {cfg:g}"] = not graph.same(draw(guided(model, clip), pair, sampler, cfg), base)
            result[f"base, {sampler}, {cfg:g}"] = graph.same(draw(model, pair, sampler, cfg), base)
    return result


def costs():
    """Texts per call of the network, for 20 steps, and how many steps lie in the window."""
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red circle", "")
    level = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(level, "normal", 20)[:-1].tolist()
    cases = {
        "negation": ({"mode": "robust", "options": "ramp=0"}, CFG, (0.0, 0.3)),
        "negation, whole": ({}, CFG, (0.0, 1.0)),
        "sld": ({"method": "sld", "span": (0.2, 0.6)}, CFG, (0.2, 0.6)),
        "negative": ({"method": "negative", "mode": "surgical", "options": "ramp=0"}, CFG, (0.17, 0.5)),
        "negation, 1": ({"mode": "robust", "options": "ramp=0"}, 1.0, (0.0, 0.3)),
        "negative, 1": ({"method": "negative"}, 1.0, (0.0, 1.0)),
        "two": ({"text": "circle\nsquare"}, CFG, (0.0, 1.0)),
    }
    result = {}
    for name, (given, cfg, window) in cases.items():
        spied, rows = counted(guided(model, clip, **given))
        draw(spied, pair, cfg=cfg, steps=20)
        result[name] = [rows, [inside(level, sigma, *window) for sigma in sigmas]]
    return result


def several():
    """Nodes in a row: one batch, any order, one limit on the sum."""
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red circle", "")
    first = guided(guided(model, clip, "circle", unique_id="1"), clip, "red", "perp_neg", unique_id="2")
    other = guided(guided(model, clip, "red", "perp_neg", unique_id="2"), clip, "circle", unique_id="1")
    spied, rows = counted(first)
    one, two = draw(spied, pair), draw(other, pair)
    both = guided(guided(model, clip, "circle"), clip, "red")
    lines = guided(model, clip, "circle\nred")
    small = guided(guided(model, clip, "circle"), clip, "red", options="sum_limit=0.2")
    skewed = clip.clone()
    weights = {n: t for n, t in clip.patcher.model_state_dict().items() if n.endswith("final_layer_norm.weight")}
    skewed.patcher.add_patches({n: ("diff", (torch.ones_like(t),)) for n, t in weights.items()})
    return {
        "rows": rows,
        "order": graph.difference(one, two),
        "both act": min(
            graph.difference(one, draw(guided(model, clip, "circle"), pair)),
            graph.difference(one, draw(guided(model, clip, "red", "perp_neg"), pair)),
        ),
        "as lines of one": graph.difference(draw(both, pair), draw(lines, pair)),
        "earlier node alone": graph.same(draw(model, pair), draw(guided(model, clip, strength=0.0), pair)),
        "limited": graph.difference(draw(small, pair), draw(both, pair)),
        "other encoder": graph.refusal(guided, guided(model, clip), skewed),
    }


def batches():
    """Each picture of a batch as by itself, prompts beside each other, and both halves apart; network in float64."""
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red circle", "")
    noise = graph.noise_for(model, 4)
    model.model.diffusion_model.double().dtype = torch.float64
    result = {}
    for name, given in {"negation": {}, "sld": {"method": "sld"}, "dng": {"method": "dng"}}.items():
        changed = guided(model, clip, **given)
        whole = graph.predictions(changed, *pair, batch=4, noise=noise)
        alone = [graph.predictions(changed, *pair, batch=1, noise=noise[i : i + 1]) for i in range(4)]
        turned = graph.predictions(changed, *pair, batch=4, noise=noise.flip(0))
        result[name] = [
            graph.difference(torch.cat(alone, 2), whole),
            graph.difference(turned.flip(2), whole),
            graph.difference(whole, graph.predictions(model, *pair, batch=4, noise=noise)),
        ]
    model.model.diffusion_model.float().dtype = torch.float32
    memory = comfy.model_base.BaseModel.memory_required
    changed = guided(model, clip)
    together, spied = graph.predictions(changed, *pair), counted(changed)
    comfy.model_base.BaseModel.memory_required = lambda self, *a, **k: 1e15
    try:
        result["apart"] = graph.difference(graph.predictions(spied[0], *pair), together)
    finally:
        comfy.model_base.BaseModel.memory_required = memory
    result["rows apart"] = max(spied[1])
    return result


def beside():
    """Membranes on either side, and nodes that change guidance themselves."""
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red heart", "")
    (membrane,) = graph.membranes(model, clip, "circle -> square", gate="always")
    result, seen = {}, {}
    for rows in ("cond", "all"):
        erased = graph.apply(model, clip, [membrane], rows)[0]
        behind, before = guided(erased, clip), graph.apply(guided(model, clip), clip, [membrane], rows)[0]
        for name, form in {"behind": behind, "before": before}.items():
            seen[f"{rows}, {name}"] = _third(form, pair)
    plain = _third(guided(model, clip), pair)
    result["rows=cond leaves it alone"] = [graph.same(seen[f"cond, {n}"], plain) for n in ("behind", "before")]
    result["rows=all maps it"] = [graph.difference(seen[f"all, {n}"], plain) for n in ("behind", "before")]
    erased = graph.apply(model, clip, [membrane], "cond")[0]
    result["both"] = graph.difference(draw(guided(erased, clip), pair), draw(erased, pair))
    hooks = {"rescale": advanced.RescaleCFG().patch(model, 0.7)[0]}
    post = model.clone()
    post.set_model_sampler_post_cfg_function(lambda a: a["denoised"] * 0.9)
    pre = model.clone()
    pre.set_model_sampler_pre_cfg_function(lambda a: [a["conds_out"][0] * 0.9, a["conds_out"][1]])
    for name, changed in {**hooks, "post": post, "pre": pre}.items():
        on = guided(changed, clip)
        result[name] = [
            graph.difference(draw(on, pair), draw(changed, pair)),
            graph.difference(draw(on, pair), draw(guided(model, clip), pair)),
            graph.same(draw(guided(changed, clip, strength=0.0), pair), draw(changed, pair)),
        ]
    return result


def _third(model, pair):
    """The text of the guidance as cross-attention gets it."""
    found, where = [], []
    network = model.model.diffusion_model
    layer = next(m for n, m in network.named_modules() if n.endswith("attn2"))

    def call(function, args):
        where.append(args["cond_or_uncond"])
        return function(args["input"], args["timestep"], **args["c"])

    def keep(module, args):
        size, at = len(args[0]) // len(where[-1]), where[-1].index(2)
        found.append(args[0][at * size : (at + 1) * size].clone())

    clone = model.clone()
    clone.set_model_unet_function_wrapper(call)
    hook = layer.to_k.register_forward_pre_hook(keep)
    try:
        draw(clone, pair, steps=1)
    finally:
        hook.remove()
    return found[0]


def interrupted():
    """20 runs that are stopped or fail at various places, then a plain one."""
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red circle", "")
    base = draw(model, pair)
    changed = guided(model, clip, method="sld", options="preset=max", unique_id="7")
    wanted = draw(changed, pair)
    layer = next(m for n, m in model.model.diffusion_model.named_modules() if n.endswith("attn2"))
    before = (dict(changed.model_options["transformer_options"]), sorted(changed.wrappers))
    stopped = 0
    for run in range(20):
        left = [run % 7 + 1]
        failure = comfy.model_management.InterruptProcessingException if run % 2 else RuntimeError

        def stop(*args, left=left, failure=failure):
            left[0] -= 1
            if left[0] < 0:
                raise failure()

        hook = layer.register_forward_hook(stop)
        try:
            draw(changed, pair)
        except (comfy.model_management.InterruptProcessingException, RuntimeError):
            stopped += 1
        finally:
            hook.remove()
    modules = list(model.model.diffusion_model.modules())
    return {
        "stopped": stopped,
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
        "base": graph.same(draw(model, pair), base),
        "again": graph.same(draw(changed, pair), wanted),
        "options": before == (dict(changed.model_options["transformer_options"]), sorted(changed.wrappers)),
        "input untouched": not model.wrappers and "wrappers" not in model.model_options["transformer_options"],
    }


def guiders():
    """Guiders without a negative, and those that evaluate three texts of their own."""
    model, clip = graph.node("DemoModel")[:2]
    prompt, empty = graph.text(clip, "a red circle"), graph.text(clip, "")
    on = guided(model, clip, unique_id="7")
    latent = graph.empty(model)
    noise = comfy.sample.prepare_noise(latent, 1)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)

    def sample(patched, kind, cfg=1.0):
        guider = kind(patched)
        if hasattr(guider, "set_cfg") and kind is not comfy.samplers.CFGGuider:
            guider.set_conds(prompt)
        else:
            guider.set_conds(prompt, empty)
            guider.set_cfg(cfg)
        return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)

    class Three(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 - the host's form
            lists = [self.conds["positive"], self.conds["negative"], self.conds["negative"]]
            found = comfy.samplers.calc_cond_batch(self.inner_model, lists, x, timestep, model_options)
            return found[1] + 2.0 * (found[0] - found[2])

        def set_conds(self, positive):
            self.inner_set_conds({"positive": positive, "negative": empty})

    basic = sample(on, custom.Guider_Basic)
    with graph.events() as sent:
        three = sample(on, Three)
    return {
        "basic acts": graph.difference(basic, sample(model, custom.Guider_Basic)),
        "basic is cfg 1 with an empty negative": graph.difference(basic, sample(on, comfy.samplers.CFGGuider, 1.0)),
        "three": graph.same(three, sample(model, Three)),
        "three is told": [data["warning"] for _, data in sent],
    }


def plots():
    model, clip = graph.node("DemoModel")[:2]
    pair = graph.text_pair(clip, "a red circle", "")
    on = guided(guided(model, clip, method="sld"), clip, "red")
    first, second = draw(on, pair), draw(on, pair, cfg=2.0)
    plot = {n: graph.node("GuidancePlot", on, {"samples": s}) for n, s in (("1", first), ("2", second))}
    changed = graph.node("GuidancePlot", on, {"samples": second + 1})[0]
    return {
        "shape": list(plot["1"][0].shape),
        "range": [float(plot["1"][0].min()), float(plot["1"][0].max())],
        "passes": graph.same(plot["1"][1]["samples"], first),
        "of its own run": not graph.same(plot["1"][0], plot["2"][0]),
        "else of the last": graph.same(changed, plot["2"][0]),
        "none": graph.refusal(graph.node, "GuidancePlot", model, {"samples": first}),
    }


def events():
    model, clip = graph.node("DemoModel")[:2]
    pair, result = graph.text_pair(clip, "a red circle", ""), {}
    for name, method, cfg in (("sld", "sld", CFG), ("negation, 1", "negation", 1.0), ("negative, 1", "negative", 1.0)):
        with graph.events() as sent:
            draw(guided(model, clip, method=method, mode="balanced", unique_id="7"), pair, "heun", cfg)
        result[name] = sent
    return result


def flat():
    """Finite with no direction at all, at the ends of the schedule, for several shapes."""
    model, clip = graph.node("DemoModel")[:2]
    empty, result = graph.text(clip, ""), {}
    for method in ("negation", "sld", "sega", "perp_neg", "dng", "all_but_one"):
        changed = guided(model, clip, "circle -> square", method)
        found = [draw(changed, (empty, empty), batch=batch) for batch in (1, 3)]
        result[method] = all(bool(torch.isfinite(one).all()) for one in found)
    return result


def refused():
    node = graph.PACK.NODE_CLASS_MAPPINGS["MembraneNegativeGuidance"]
    return {
        "option": node.VALIDATE_INPUTS("circle", "negation", "wn=3"),
        "own input": node.VALIDATE_INPUTS("circle", "negation", "mode=robust"),
        "sum": node.VALIDATE_INPUTS("circle", "negation", "sum_limit=9"),
        "two anchors": node.VALIDATE_INPUTS("circle -> square -> star", "negation", ""),
        "fine": [node.VALIDATE_INPUTS("circle", method, "") for method in ("negation", "sld", "sega", "dng")],
        "linked": node.VALIDATE_INPUTS(None, None, None),
    }


PARTS = (off, costs, several, batches, beside, interrupted, guiders, plots, events, flat, refused)


def main(parts=()):
    return {part.__name__: part() for part in PARTS if not parts or part.__name__ in parts}

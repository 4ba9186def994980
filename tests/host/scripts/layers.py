"""Membranes that change layers while the model runs: against patches, LoRA, merged weights; by rows, steps, packs."""

import contextlib

import batches
import comfy.model_management as management
import control
import eraser
import graph
import regions
import storage
import tiny
import torch
from comfy.patcher_extension import WrappersMP

from nodes import ConditioningSetTimestepRange, LoraLoader


def models(kind):
    return graph.node("DemoModel")[:2] if kind == "demo" else (tiny.unet(kind), tiny.text_encoder(kind))


def apply(model, clip, some, rows="all", act_on="auto"):
    return graph.apply(model, clip, some, rows, act_on)


def forms(kind):
    """One membrane, gain 1, all rows: hooks, patches, the host's LoRA loader and merged weights."""
    model, clip = models(kind)
    changes = eraser.deltas(model, clip, 2, 1)
    some = [eraser.membrane(changes)]
    (listed,) = graph.node("Save", tuple(some), f"layers-{kind}", "lora", "fp32", False, model, clip)
    prompts = graph.text_pair(clip, "a red circle")
    made = {
        "hooks": apply(model, clip, some)[0],
        "patches": apply(model, clip, some, act_on="weights")[0],
        "lora": LoraLoader().load_lora(model, clip, listed.removeprefix("loras/"), 1.0, 1.0)[0],
        "merged": eraser.merged(model, clip, [(1.0, changes, {})]),
        "plain": model,
        "off": apply(model, clip, [eraser.changed(some[0], strength=0.0)])[0],
    }
    found = {name: graph.predictions(one, *prompts) for name, one in made.items()}
    latents = {name: graph.draw(made[name], *prompts) for name in ("hooks", "patches", "merged")}
    return {
        "layers": len(changes),
        **{name: graph.difference(found[name], found["hooks"]) for name in ("patches", "lora", "merged", "plain")},
        "off, bitwise": graph.same(found["off"], found["plain"]),
        "latents": max(graph.difference(latents[name], latents["hooks"]) for name in ("patches", "merged")),
        "hooks left": eraser.hooks(model),
        "receipt": graph.node("Apply", model, clip, tuple(some), "all", "auto")[2],
    }


def flux(kind):
    """Layers that are rows of one stacked matrix, with single and double blocks; by rows and words."""
    model, clip = models(kind)
    changes = eraser.deltas(model, clip, 2, 1, eraser.FLUX)
    always = [eraser.membrane(changes)]
    prompts = graph.text_pair(clip, "a red circle")
    merged = eraser.merged(model, clip, [(1.0, changes, {})])  # before the host patches the very tensors
    plain = graph.predictions(model, *prompts)
    found = graph.predictions(apply(model, clip, always)[0], *prompts)
    words, encoder = apply(model, clip, [eraser.membrane(changes, gate="words")], "cond")
    none = graph.text(encoder, "blurred")
    named, other = (graph.predictions(words, graph.text(encoder, t), none) for t in ("a red circle", "a blue heart"))
    base = graph.predictions(model, graph.text(clip, "a blue heart"), none)
    return {
        "layers": len(changes),
        "plain": graph.difference(plain, found),
        "patches": graph.difference(
            graph.predictions(apply(model, clip, always, act_on="weights")[0], *prompts), found
        ),
        "merged": graph.difference(graph.predictions(merged, *prompts), found),
        "named": graph.difference(named, found),
        "other, bitwise": graph.same(other, base),
        "hooks left": eraser.hooks(model),
    }


def chain(kind):
    """Eight mixed membranes in one list against their dense sum; in another order; in two nodes."""
    model, clip = models(kind)
    parts = [(0.8, eraser.deltas(model, clip, rank, rank), {}) for rank in (1, 1, 2, 4)]
    parts += [
        (0.5, eraser.deltas(model, clip, 1, 9, ("attn1",)), {}),
        (-0.4, eraser.deltas(model, clip, 2, 10, whole=True), {}),
    ]
    parts += [(0.7, {}, eraser.bottlenecks(model, clip, 5, 3)), (1.0, {}, eraser.bottlenecks(model, clip, 2, 4))]
    some = [eraser.membrane(changes, erasers, strength=gain) for gain, changes, erasers in parts]
    prompts = graph.text_pair(clip, "a red circle")
    made = graph.predictions(apply(model, clip, some, act_on="text")[0], *prompts)
    other = graph.predictions(
        apply(model, clip, [some[i] for i in (5, 2, 7, 0, 3, 6, 1, 4)], act_on="text")[0], *prompts
    )
    row = apply(*apply(model, clip, some[:3], act_on="text"), some[3:], act_on="text")[0]
    return {
        "acts": graph.difference(made, graph.predictions(model, *prompts)),
        "dense": graph.difference(made, graph.predictions(eraser.merged(model, clip, parts), *prompts)),
        "permuted": graph.difference(other, made),
        "two nodes": graph.difference(graph.predictions(row, *prompts), made),
    }


def gates(kind):
    """Words decide row by row; three prompts stacked in one conditioning are three single ones."""
    model, clip = models(kind)
    changes = eraser.deltas(model, clip, 1, 3)
    a = eraser.membrane(changes, gate="words")
    b = eraser.membrane(
        eraser.deltas(model, clip, 2, 4), eraser.bottlenecks(model, clip, 3, 5), ("star",), gate="words"
    )
    changed, encoder = apply(model, clip, [a, b], "cond")
    texts, none = ("a red circle", "a blue heart", "a star in a circle"), graph.text(encoder, "blurred")
    alone = [graph.predictions(changed, graph.text(encoder, t), none, batch=1) for t in texts]
    plain = [graph.predictions(model, graph.text(clip, t), none, batch=1) for t in texts]
    # words are lost where prompts are stacked, so these are encoded without: gates go by the vectors
    entries = [graph.text(clip, text)[0] for text in texts]
    noise = graph.noise_for(model, 3)
    batch = batches.answers(changed, batches.stacked(entries), none, noise)
    single = batches.alone(changed, entries, none * 3, noise)
    with storage.replaced(management, get_free_memory=storage.nothing_free):
        apart = graph.predictions(changed, graph.text(encoder, texts[0]), none, batch=1)
    merged = eraser.merged(model, clip, [(1.0, changes, {})])
    return {
        "closed, bitwise": [graph.same(one, base) for one, base in zip(alone, plain, strict=True)],
        "stacked": graph.difference(batch, single),
        "stacked acts": graph.difference(batch, batches.answers(model, batches.stacked(entries), none, noise)),
        "separate calls": graph.difference(apart, alone[0]),
        "negative follows": graph.difference(
            alone[0], graph.predictions(merged, *(graph.text(clip, texts[0]), none), batch=1)
        ),
        "hooks left": eraser.hooks(model),
    }


def negatives():
    """Which gain the negative prompt's row has."""
    model, clip = models("demo")
    changes = eraser.deltas(model, clip, 1, 3)
    merged = eraser.merged(model, clip, [(1.0, changes, {})])
    circle, heart = graph.text(clip, "a red circle"), graph.text(clip, "a blue heart")

    def made(rows, positive, negative, policy="positive"):
        one = eraser.membrane(changes, gate="words", rows=policy)
        changed, encoder = apply(model, clip, [one], rows)
        return graph.predictions(changed, graph.text(encoder, positive), graph.text(encoder, negative), batch=1)

    def area(conditioning, x):
        return [[rows, {**more, "area": (8, 4, 0, x), "strength": 1.0}] for rows, more in conditioning]

    halves = area(circle, 0) + area(heart, 4)
    mapped, _ = graph.apply(model, clip, graph.membranes(model, clip), "cond")
    by_area = [graph.predictions(one, halves, graph.text(clip, "blurred"), batch=1) for one in (mapped, model)]
    couple = regions.Couple([rows for rows, _ in heart]).put(model)
    coupled = apply(couple, clip, [eraser.membrane(changes)], "cond")[0]
    both = graph.predictions(coupled, circle, heart, batch=1)
    base = graph.predictions(model, heart, circle, batch=1)
    return {
        "areas: negative, bitwise": graph.same(by_area[0][:, 1], by_area[1][:, 1]),
        "areas: prompts": graph.difference(by_area[0][:, 0], by_area[1][:, 0]),
        "coupled": graph.difference(
            both, graph.predictions(regions.Couple([rows for rows, _ in heart]).put(merged), circle, heart, batch=1)
        ),
        "coupled acts": graph.difference(both, graph.predictions(couple, circle, heart, batch=1)),
        "named in the negative alone, bitwise": graph.same(made("cond", "a blue heart", "a red circle"), base),
        "all rows": graph.difference(
            made("all", "a blue heart", "a red circle")[:, 1], graph.predictions(merged, heart, circle, batch=1)[:, 1]
        ),
        "all rows spare the prompt": graph.difference(made("all", "a blue heart", "a red circle")[:, 0], base[:, 0]),
        "full": graph.difference(
            made("cond", "a red circle", "a blue heart", "full"), graph.predictions(merged, circle, heart, batch=1)
        ),
    }


def steps():
    """Parts of the sampling, of a membrane and of a prompt."""
    model, clip = models("demo")
    changes = eraser.deltas(model, clip, 1, 3)
    levels = model.get_model_object("model_sampling").percent_to_sigma
    sigmas = tuple(float(levels(p)) for p in (0.05, 0.35, 0.65, 0.95))
    circle, heart, none = (graph.text(clip, t) for t in ("a red circle", "a blue heart", "blurred"))
    late, _ = apply(model, clip, [eraser.membrane(changes, start=0.3, end=0.7)])
    merged = eraser.merged(model, clip, [(1.0, changes, {})])
    of = {
        name: graph.predictions(one, circle, none, batch=1, sigmas=sigmas)
        for name, one in (("late", late), ("plain", model), ("merged", merged))
    }
    result = {
        "late": [
            [
                graph.same(of["late"][i], of["plain"][i]),
                graph.difference(of["late"][i : i + 1], of["merged"][i : i + 1]),
            ]
            for i in range(4)
        ]
    }
    words, encoder = apply(model, clip, [eraser.membrane(changes, gate="words")], "cond")
    (first,) = ConditioningSetTimestepRange().set_range(graph.text(encoder, "a red circle"), 0.0, 0.5)
    (second,) = ConditioningSetTimestepRange().set_range(graph.text(encoder, "a blue heart"), 0.5, 1.0)
    found = graph.predictions(words, first + second, none, batch=1, sigmas=sigmas)
    parts = [graph.predictions(merged, circle, none, batch=1, sigmas=sigmas)[:2]]
    parts.append(graph.predictions(model, heart, none, batch=1, sigmas=sigmas)[2:])
    result["prompts in turn"] = graph.difference(found[:2], parts[0])
    result["prompts in turn, closed, bitwise"] = graph.same(found[2:], parts[1])
    return result


class Prompted(torch.nn.Module):
    """What an IPAdapter-like pack puts in place of a cross-attention: the text's answer and that of other tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def __call__(self, q, k, v, extra):
        from comfy.ldm.modules.attention import optimized_attention

        own = optimized_attention(q, k, v, extra["n_heads"])
        other = self.tokens[:, :, : k.shape[-1]].expand(len(q), -1, -1)
        return own + 0.3 * optimized_attention(q, other, other, extra["n_heads"])


def neighbours():
    """ControlNet, a user's LoRA, an IPAdapter-like patch and another pack's wrapper beside a chain."""
    model, clip = models("sd1")
    changes, user = eraser.deltas(model, clip, 1, 3), eraser.deltas(model, clip, 3, 77)
    some = [eraser.membrane(changes), eraser.membrane({}, eraser.bottlenecks(model, clip, 3, 5), strength=0.5)]
    parts = [(1.0, changes, {}), (0.5, {}, some[1].erasure.bottlenecks)]
    prompts = graph.text_pair(clip, "a red circle")
    net, image = control.control_net("sd1"), torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(3))
    tokens = torch.randn(1, 4, 256, generator=torch.Generator().manual_seed(8))

    def replaced(one):
        one = one.clone()
        for block in (("input", 1), ("input", 3), ("middle", 0), ("output", 2)):
            one.set_model_attn2_replace(Prompted(tokens), *block)
        return one

    def wrapped(one):
        def twice(executor, x, timesteps, *args, **kwargs):
            return executor(x, timesteps, *args, **kwargs) + 0.1 * executor(x * 0.9, timesteps, *args, **kwargs)

        one = one.clone()
        one.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "another pack", twice)
        return one

    def with_lora(one):
        return apply(one, clip, [eraser.membrane(user)], act_on="weights")[0]

    result = {}
    for name, way in (("replaced", replaced), ("wrapped", wrapped), ("lora", with_lora)):
        before = apply(way(model), clip, some)[0]
        after = way(apply(model, clip, some)[0])
        own = [*parts, (1.0, user, {})] if name == "lora" else parts
        merged = eraser.merged(model, clip, own)
        expected = graph.predictions(merged if name == "lora" else way(merged), *prompts)
        result[name] = {
            "before": graph.difference(graph.predictions(before, *prompts), expected),
            "after": graph.difference(graph.predictions(after, *prompts), expected),
            "acts": graph.difference(graph.predictions(way(model), *prompts), expected),
        }
    controlled = control.run(apply(model, clip, some)[0], prompts, net, image)[0]
    expected = control.run(eraser.merged(model, clip, parts), prompts, net, image)[0]
    result["control"] = {
        "before": graph.difference(controlled, expected),
        "acts": graph.difference(control.run(model, prompts, net, image)[0], expected),
    }
    result["hooks left"] = eraser.hooks(model)
    return result


def precisions():
    """Layers stored in few bits, packed or offloaded, changed at run time."""
    result = {}
    for name in storage.DTYPES:
        exact, stored = storage.rounded("sd1", getattr(torch, name))
        clip = tiny.text_encoder()
        some = [eraser.membrane(eraser.deltas(exact, clip, 1, 3))]
        prompts = graph.text_pair(clip, "a red circle")
        found = graph.predictions(apply(stored, clip, some)[0], *prompts, batch=1)
        result[name] = {
            "exact": graph.difference(found, graph.predictions(apply(exact, clip, some)[0], *prompts, batch=1)),
            "acts": graph.difference(found, graph.predictions(stored, *prompts, batch=1)),
        }
        if name != "float8_e4m3fn":
            computed = tiny.unet(dtype=getattr(torch, name))
            late, baked = (apply(computed, clip, some, act_on=a)[0] for a in ("auto", "weights"))
            late, baked = (graph.predictions(one, *prompts, batch=1) for one in (late, baked))
            result[name]["computed"] = graph.difference(late, baked)
    for name, packed in (("int8", False), ("packed", True)):
        model, exact = storage.quantised(packed)
        clip = tiny.text_encoder()
        some = [eraser.membrane(eraser.deltas(exact, clip, 1, 3))]
        prompts = graph.text_pair(clip, "a red circle")
        found = graph.predictions(apply(model, clip, some)[0], *prompts, batch=1)
        result[name] = {
            "exact": graph.difference(found, graph.predictions(apply(exact, clip, some)[0], *prompts, batch=1)),
            "acts": graph.difference(found, graph.predictions(model, *prompts, batch=1)),
        }
    model, clip = models("sd1")
    some = [eraser.membrane(eraser.deltas(model, clip, 1, 3))]
    prompts = graph.text_pair(clip, "a red circle")
    low = apply(tiny.unet(), clip, some)[0]
    with storage.replaced(management, vram_state=management.VRAMState.NO_VRAM, is_device_cpu=lambda device: False):
        found = graph.predictions(low, *prompts)
        offloaded = low.model.model_lowvram
    result["offloaded"] = {
        "exact": graph.difference(found, graph.predictions(apply(model, clip, some)[0], *prompts)),
        "acts": graph.difference(found, graph.predictions(model, *prompts)),
        "is": offloaded,
    }
    return result


def failures():
    """A sampling that stops half-way leaves no hook."""
    model, clip = models("demo")
    changed = apply(model, clip, [eraser.membrane(eraser.deltas(model, clip, 1, 3))])[0]
    prompts = graph.text_pair(clip, "a red circle")
    before = graph.predictions(model, *prompts)
    stopped = changed.clone()
    calls = []

    def stop(args):
        calls.append(eraser.hooks(model))
        if len(calls) == 2:
            raise management.InterruptProcessingException
        return args["denoised"]

    stopped.set_model_sampler_post_cfg_function(stop)
    with contextlib.suppress(management.InterruptProcessingException):
        graph.draw(stopped, *prompts)
    return {
        "hooks meanwhile": calls[0] > 0,
        "hooks after": eraser.hooks(model),
        "bitwise": graph.same(graph.predictions(model, *prompts), before),
    }


def main():
    kinds = ("demo", "sd1", "sd2", "sdxl")
    return {
        "forms": {kind: forms(kind) for kind in kinds},
        "flux": {kind: flux(kind) for kind in tiny.TRANSFORMERS},
        "chain": {kind: chain(kind) for kind in ("demo", "sdxl")},
        "gates": {kind: gates(kind) for kind in ("demo", "sd2", "sdxl")},
        "negatives": negatives(),
        "steps": steps(),
        "neighbours": neighbours(),
        "precisions": precisions(),
        "failures": failures(),
    }

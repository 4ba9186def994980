"""Off is bitwise off, nothing that was given is changed, and nodes in a row add up."""

import comfy.patcher_extension
import graph
import tiny
import torch


def facts(model, clip):
    """Everything on MODEL and CLIP that a node could have changed, as comparable values."""

    def of(patcher):
        weights = {key: entry[0][0] for key, entry in patcher.get_key_patches().items()}
        return {
            "patches": {key: [id(part) for part in found] for key, found in patcher.patches.items()},
            "wrappers": {kind: {key: list(w) for key, w in by.items()} for kind, by in patcher.wrappers.items()},
            "callbacks": str(patcher.callbacks),
            "object patches": dict(patcher.object_patches),
            "options": str(sorted(patcher.model_options)),
            "weights": {key: weight.detach().clone() for key, weight in weights.items()},
        }

    return {"model": of(model), "clip": of(clip.patcher), "layer": clip.layer_idx}


def differing(before, after, path=""):
    """Paths of what is not bitwise the same."""
    if isinstance(before, dict):
        keys = before.keys() | after.keys()
        return [p for key in sorted(keys, key=str) for p in differing(before.get(key), after.get(key), f"{path}/{key}")]
    equal = torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after
    return [] if equal else [path]


def off(model, clip):
    """Which ways of being off give the very latents of the plain model; ``control``: ways of being on that do not."""
    some = graph.membranes(model, clip)
    prompts = ("a red star", "blurred")
    plain = [graph.text(clip, prompt) for prompt in prompts]
    base, before = drawn(model, *plain), facts(model, clip)
    zero, closed = graph.changed(some[0], strength=0.0), graph.changed(some[0], gate="words")
    ways = {
        f"{name} {act_on}": graph.apply(model, clip, given, "all", act_on)
        for name, given in (("no membrane", []), ("strength 0", [zero]), ("two of strength 0", [zero, zero]))
        for act_on in ("text", "weights", "auto")
    }
    ways["strength 0, cond"] = graph.apply(model, clip, [zero], "cond")
    ways["closed gate"] = graph.apply(model, clip, [closed], "all")
    ways["closed gate and strength 0"] = graph.apply(model, clip, [closed, zero], "all")
    (none,) = graph.node("Concepts", "circle -> square", "object", "")
    ways["Erase at strength 0"] = graph.node("Erase", model, clip, none, "uce", 0.0, "")[:2]
    on = {
        "strength 1": graph.apply(model, clip, some, "cond"),
        "weights": graph.apply(model, clip, some, "cond", "weights"),
        "strength -1": graph.apply(model, clip, [graph.changed(some[0], strength=-1.0)], "cond"),
        "Erase": graph.node("Erase", model, clip, none, "uce", 1.0, "")[:2],
    }
    result = {"off": {}, "vectors": {}, "on": {}}
    for name, (changed, encoder) in {**ways, **on}.items():
        own = [graph.text(encoder, prompt) for prompt in prompts]
        result["on" if name in on else "off"][name] = graph.same(drawn(changed, *own), base)
        result["vectors"][name] = all(graph.same(o[0][0], p[0][0]) for o, p in zip(own, plain, strict=True))
    result["open gate"] = graph.same(*(drawn(m, *named(clip)) for m in (ways["closed gate"][0], model)))
    result["removed"] = graph.same(drawn(model, *plain), base)
    result["changed inputs"] = differing(before, facts(model, clip))
    return result


def drawn(model, positive, negative):
    return graph.draw(model, positive, negative, batch=1, steps=2)


def named(clip):
    return graph.text(clip, "a red circle"), graph.text(clip, "blurred")


def behind(membrane):
    """A wrapper that multiplies text, and SDXL's label, by ``I + strength D Y``."""
    maps = membrane.erasure.maps

    def matrix(space):
        (factor,) = maps[space].factors
        change = membrane.strength * factor.up.double() @ factor.down.double()
        return (torch.eye(len(change), dtype=torch.float64) + change).T

    def wrapper(executor, x, timesteps, context, y=None, *args, **kwargs):
        main = next(space for space in maps if space != "sdxl_pooled")
        context = (context.double() @ matrix(main)).float()
        if "sdxl_pooled" in maps:
            width = maps["sdxl_pooled"].width
            y = torch.cat([(y[:, :width].double() @ matrix("sdxl_pooled")).float(), y[:, width:]], dim=1)
        return executor(x, timesteps, context, y, *args, **kwargs)

    return wrapper


def sums(model, clip):
    """Relative differences between nodes in a row and one node with the list, of membranes that cannot be joined."""
    joinable = (
        graph.membranes(model, clip, strength=0.8)[0],
        graph.membranes(model, clip, "heart -> star", strength=-0.5)[0],
    )
    one, two = graph.unjoined(joinable)
    prompts = [graph.text(clip, text) for text in ("a red circle and a heart", "a blue heart")]

    def drawn(*steps, act_on="text", rows="all"):
        """Predictions after one Apply node per step; a step is (list, act_on) or a list."""
        result = (model, clip)
        for step in steps:
            given, form = step if isinstance(step, tuple) else (step, act_on)
            result = graph.apply(*result, given, rows, form)
        return graph.predictions(result[0], *prompts)

    def composed(first, second):
        """Predictions with the text of ``first`` and, by hand, the matrix of ``second`` behind it."""
        result = graph.apply(model, clip, [first])[0].clone()
        result.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "last", behind(second))
        return graph.predictions(result, *prompts)

    both, cond = drawn([one, two]), drawn([one, two], rows="cond")
    return {
        "solved jointly": graph.difference(drawn(list(joinable)), both),
        "one of them": graph.difference(drawn([one]), both),
        "list turned round": graph.difference(drawn([two, one]), both),
        "in a row": graph.difference(drawn([one], [two]), both),
        "in a row, bitwise": graph.same(drawn([one], [two]), both),
        "in a row, turned round": graph.difference(drawn([two], [one]), both),
        "in a row, cond": graph.difference(drawn([one], [two], rows="cond"), cond),
        "weights": graph.difference(drawn([one, two], act_on="weights"), both),
        "weights in a row": graph.difference(drawn([one], [two], act_on="weights"), both),
        "weights in a row, turned round": graph.difference(drawn([two], [one], act_on="weights"), both),
        "text, then weights": graph.difference(drawn([one], ([two], "weights")), composed(one, two)),
        "weights, then text": graph.difference(drawn(([one], "weights"), [two]), composed(two, one)),
        "composed": graph.difference(composed(one, two), both),
    }


def main():
    demo, demo_clip, _ = graph.node("DemoModel")
    return {
        "off": {"demo": off(demo, demo_clip), "sdxl": off(tiny.unet("sdxl"), tiny.text_encoder("sdxl"))},
        "sums": {"demo": sums(demo, demo_clip), "sdxl": sums(tiny.unet("sdxl"), tiny.text_encoder("sdxl"))},
    }

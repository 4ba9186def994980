"""Attention Negative in a graph: the same as in the library, at any guidance, with and without much memory."""

import comfy.samplers
import graph
import tiny
import torch

STRONG = {"vsf": "alpha=3.5", "nag": "scale=6, alpha=1", "adavd": "sigmoid_b=0.7"}
METHODS = tuple(STRONG)


def models(kind):
    return graph.node("DemoModel")[:2] if kind == "demo" else (tiny.unet(kind), tiny.text_encoder(kind))


def steered(model, clip, method="vsf", text="circle", strength=1.0, start=0.0, end=1.0, options=None, **more):
    options = f"{STRONG[method]}, gate=always" if options is None else options
    return graph.node("AttentionNegative", model, method, text, strength, start, end, options, clip, **more)[0]


def off_and_on(method):
    """Bitwise as without the node, at guidance 1 and above, for what is off; and that it acts."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a red circle")
    result = {}
    for cfg in (1.0, 5.0):
        base = graph.draw(model, *pair, cfg=cfg)
        for name, changes in {"on": {}, "strength": {"strength": 0.0}, "window": {"start": 0.5, "end": 0.5}}.items():
            result[f"{name}, {cfg:g}"] = graph.same(
                graph.draw(steered(model, clip, method, **changes), *pair, cfg=cfg), base
            )
        result[f"base again, {cfg:g}"] = graph.same(graph.draw(model, *pair, cfg=cfg), base)
    return result


def hooks_of(model):
    modules = model.model.diffusion_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def halves(method):
    """The prompt's answer is guided, the negative one's is not; both also when the host sends them one by one."""
    model, clip = models("demo")
    pair, changed = graph.text_pair(clip, "a red circle", "a blue circle"), steered(model, clip, method)
    plain, found = graph.predictions(model, *pair), graph.predictions(changed, *pair)
    small = comfy.samplers.comfy.model_base.BaseModel.memory_required
    comfy.samplers.comfy.model_base.BaseModel.memory_required = lambda self, *a, **k: 1e15
    try:
        apart = graph.predictions(changed, *pair)
    finally:
        comfy.samplers.comfy.model_base.BaseModel.memory_required = small
    return {
        "prompt": graph.difference(found[:, 0], plain[:, 0]),
        "negative, bitwise": graph.same(found[:, 1], plain[:, 1]),
        "apart": graph.difference(apart, found),
        "hooks": hooks_of(model),
    }


def reference(kind):
    """The library's functions by hand in every layer, against the node."""
    from importlib import import_module

    attention = import_module(f"{graph.NAME}.erasure_core.guidance.attention")
    model, clip = models(kind)
    positive, negative = graph.text_pair(clip, "a red circle")
    rows = clip.encode_from_tokens(clip.tokenize("circle"))
    found = graph.predictions(
        steered(model, clip, "vsf", options="alpha=3.5, negative=all, gate=always"), positive, negative
    )
    patched = model.clone()
    settings = attention.settings_of("vsf", {"alpha": 3.5, "negative": "all"})
    vsf, heads = (import_module(f"{graph.NAME}.erasure_core.guidance.attention.{n}") for n in ("vsf", "heads"))
    modules = dict(model.model.diffusion_model.named_modules())
    names = {}
    for name, module in modules.items():
        if name.endswith("attn2"):
            block = name.split(".")
            kinds = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
            number = 0 if block[0] == "middle_block" else int(block[1])
            names[(kinds[block[0]], number, int(block[block.index("transformer_blocks") + 1]))] = module

    def replace(layer):
        def attend(q, k, v, extra):
            which = extra["cond_or_uncond"]
            size, count = len(q) // len(which), layer.heads
            text = rows.to(q).expand(size, -1, -1)
            parts = []
            for i, index in enumerate(which):
                own = [heads.apart(x[i * size : (i + 1) * size], count) for x in (q, k, v)]
                pairs = [(heads.apart(layer.to_k(text), count), heads.apart(layer.to_v(text), count))]
                parts.append(heads.together(vsf.attention(*own, [] if index == 1 else pairs, settings)))
            return torch.cat(parts)

        return attend

    for (place, number, index), layer in names.items():
        patched.set_model_attn2_replace(replace(layer), place, number, index)
    other = graph.predictions(patched, positive, negative)
    return {
        "node": graph.difference(found, other),
        "acts": graph.difference(other, graph.predictions(model, positive, negative)),
        "layers": len(names),
    }


def forms():
    """The same negative as text, as a conditioning that knows its words, and as one that does not."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a red circle")
    stamped = graph.node("Apply", model, clip, graph.membranes(model, clip), "cond", "text")[1]
    by_text = graph.predictions(steered(model, clip), *pair)

    def connected(encoder, *texts):
        out = graph.node(
            "AttentionNegative", model, "vsf", "", 1.0, 0.0, 1.0, STRONG["vsf"], None, graph.text(encoder, *texts)
        )
        return graph.predictions(out[0], *pair), out[1]

    known, told = connected(stamped, "circle")
    unknown, warned = connected(clip, "circle")
    both, _ = connected(stamped, "circle", "red")
    lines = graph.predictions(steered(model, clip, text="circle\nred"), *pair)
    return {
        "stamped": graph.difference(known, by_text),
        "unstamped": graph.difference(unknown, by_text),
        "all entries": graph.difference(both, lines),
        "first entry only": graph.difference(both, known),
        "note": ["not known" in told, "not known" in warned],
    }


def weights():
    """A LoRA behind the node changes what the negative is read by."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a red circle")
    names = [n for n in model.model_state_dict() if n.endswith("attn2.to_v.weight") or n.endswith("attn2.to_k.weight")]
    generator = torch.Generator().manual_seed(1)
    patch = {n: ("diff", (torch.randn(model.model_state_dict()[n].shape, generator=generator) * 0.2,)) for n in names}

    def patched(form):
        form = form.clone()
        form.add_patches(patch)
        return form

    behind = graph.predictions(patched(steered(model, clip)), *pair)
    before = graph.predictions(steered(patched(model), clip), *pair)
    return {
        "either order": graph.difference(behind, before),
        "acts": graph.difference(behind, graph.predictions(patched(model), *pair)),
    }


def membranes():
    """A membrane on all rows maps the negative, as edited weights do; one on prompts alone leaves it as written."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a blue star")
    some = graph.membranes(model, clip, gate="always")
    how = {"weights": ("cond", "weights"), "all": ("all", "text"), "cond": ("cond", "text")}
    found, plain = {}, {}
    for name, (rows, act_on) in how.items():
        erased = graph.apply(model, clip, some, rows, act_on)[0]
        forms = steered(erased, clip), graph.apply(steered(model, clip), clip, some, rows, act_on)[0]
        found[name] = [graph.predictions(form, *pair)[:, 0] for form in forms]  # the prompt's half
        plain[name] = graph.predictions(erased, *pair)[:, 0]
    return {
        "either order, bitwise": all(graph.same(*both) for both in found.values()),
        "all": graph.difference(found["all"][0], found["weights"][0]),
        "cond": graph.difference(found["cond"][0], found["weights"][0]),
        "acts": min(graph.difference(found[name][0], plain[name]) for name in how),
    }


def beside():
    """Two of the nodes, a membrane, regions and another pack's replacement of the attention."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a red circle")
    one = graph.predictions(steered(steered(model, clip, unique_id="1"), clip, text="red", unique_id="2"), *pair)
    other = graph.predictions(steered(steered(model, clip, text="red", unique_id="1"), clip, unique_id="2"), *pair)
    erased = graph.apply(model, clip, graph.membranes(model, clip, "heart -> star"))[0]
    gated = steered(model, clip, options=f"{STRONG['vsf']}, gate=words")
    star = graph.text_pair(clip, "a red star")
    called = []

    def spy(q, k, v, extra):
        called.append(1)
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, extra["n_heads"])

    import comfy.ldm.modules.attention

    replaced = steered(model, clip)
    replaced.set_model_attn2_replace(spy, "middle", 0)
    return {
        "either order": graph.difference(one, other),
        "both act": graph.difference(one, graph.predictions(steered(model, clip), *pair)),
        "with a membrane": graph.difference(
            graph.predictions(steered(erased, clip), *pair), graph.predictions(erased, *pair)
        ),
        "gate closed, bitwise": graph.same(graph.predictions(gated, *star), graph.predictions(model, *star)),
        "gate open": graph.difference(graph.predictions(gated, *pair), graph.predictions(model, *pair)),
        "replaced": graph.difference(
            graph.predictions(replaced, *pair), graph.predictions(steered(model, clip), *pair)
        ),
        "replacement ran": len(called),
    }


def interrupted():
    """What is left on the modules after a run that was stopped."""
    model, clip = models("demo")
    changed = steered(model, clip)
    pair = graph.text_pair(clip, "a red circle")
    base = graph.predictions(model, *pair)
    layer = next(m for n, m in model.model.diffusion_model.named_modules() if n.endswith("attn2"))
    stop = layer.register_forward_hook(lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        graph.predictions(changed, *pair)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    finally:
        stop.remove()
    return {"stopped": stopped, "hooks": hooks_of(model), "base": graph.same(graph.predictions(model, *pair), base)}


def windows():
    """From which noise level on it acts, for two windows."""
    model, clip = models("demo")
    pair = graph.text_pair(clip, "a red circle")
    base = graph.predictions(model, *pair)
    result = {}
    for start, end in ((0.0, 0.4), (0.4, 1.0)):
        found = graph.predictions(steered(model, clip, start=start, end=end), *pair)
        result[f"{start:g}-{end:g}"] = [graph.same(a, b) for a, b in zip(found, base, strict=True)]
    return result


def ids():
    """encode_ids against the host's own encoding."""
    from importlib import import_module

    result = {}
    for kind in ("demo", "sdxl"):
        host_model = import_module(f"{graph.NAME}.nodes.model").HostModel(*models(kind))
        encoded = host_model.encode(["a red circle", "a star"])
        again = host_model.encode_ids({name: chunks[:, 0] for name, chunks in encoded.tokens.items()})
        same = torch.equal(again.hidden, encoded.hidden) and torch.equal(again.eos, encoded.eos)
        result[kind] = same and (kind == "demo" or torch.equal(again.pooled, encoded.pooled))
    return result


def refused():
    model, clip = models("demo")

    def made(method="vsf", text="circle", options="", encoder=clip, negative=None):
        node = graph.PACK.NODE_CLASS_MAPPINGS["MembraneAttentionNegative"]
        told = node.VALIDATE_INPUTS(method, options)
        return (
            told
            if told is not True
            else graph.refusal(
                graph.run, "AttentionNegative", model, method, text, 1.0, 0.0, 1.0, options, encoder, negative
            )
        )

    wide = [[torch.zeros(1, 77, 768), {}]]
    return {
        "nothing": made(text=""),
        "no clip": made(encoder=None),
        "width": made(text="", negative=wide),
        "option": made(options="alpah=2"),
        "ramp": made(options="ramp=wide"),
        "gate": made(text="", options="gate=words", negative=graph.text(clip, "circle")),
        "fine": made(),
    }


def main():
    return {
        "off": {method: off_and_on(method) for method in METHODS},
        "halves": {method: halves(method) for method in METHODS},
        "reference": {kind: reference(kind) for kind in ("demo", "sdxl")},
        "forms": forms(),
        "weights": weights(),
        "membranes": membranes(),
        "beside": beside(),
        "interrupted": interrupted(),
        "windows": windows(),
        "ids": ids(),
        "refused": refused(),
    }

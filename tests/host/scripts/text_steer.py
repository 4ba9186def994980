"""Text Steer in a graph: a model that steers every prompt, and one conditioning that is steered."""

from importlib import import_module

import graph
import tiny
import torch

METHODS = {"projection": "", "lancet": "", "safree": "filter=no, alpha=0, rows=all"}


def models(kind):
    return graph.node("DemoModel")[:2] if kind == "demo" else (tiny.unet(kind), tiny.text_encoder(kind))


def concepts(text="circle -> square"):
    return graph.node("Concepts", text, "object", "")[0]


def steered(model, clip, method, strength=1.0, options=None, conditioning=None, text="circle -> square"):
    options = METHODS[method] if options is None else options
    return graph.node("TextSteer", model, clip, concepts(text), method, strength, options, conditioning, unique_id="7")


def forms(kind, method):
    """The model form, the conditioning form and the library by hand, with what is off and what is closed."""
    model, clip = models(kind)
    options = METHODS[method] + (", " if METHODS[method] else "") + "gate=words"
    changed, encoder, none, _ = steered(model, clip, method, options=options)
    pair, plain_pair = (
        graph.text_pair(encoder, "a red circle", "a blue circle"),
        graph.text_pair(clip, "a red circle", "a blue circle"),
    )
    star, plain_star = graph.text_pair(encoder, "a red star"), graph.text_pair(clip, "a red star")
    base, found = graph.predictions(model, *plain_pair), graph.predictions(changed, *pair)
    passed, _, one, receipt = steered(model, clip, method, options=options, conditioning=pair[0])
    by_hand = import_module(f"{graph.NAME}.erasure_core.guidance.text").text_steering(
        import_module(f"{graph.NAME}.nodes.model").HostModel(model, clip),
        "circle -> square",
        method,
        **import_module(f"{graph.NAME}.erasure_core.options").parse_options(options),
    )
    target = import_module(f"{graph.NAME}.nodes.model").HostModel(model, clip)
    wanted = by_hand(target.encode(["a red circle"])).first
    off = steered(model, clip, method, strength=0.0)[0]
    return {
        "acts": graph.difference(found[:, 0], base[:, 0]),
        "negative, bitwise": graph.same(found[:, 1], base[:, 1]),
        "conditioning": graph.difference(graph.predictions(passed, one, pair[1]), found),
        "library": graph.difference(one[0][0], wanted.hidden),
        "pooled": 0.0 if wanted.pooled is None else graph.difference(one[0][1]["pooled_output"], wanted.pooled),
        "star, bitwise": graph.same(graph.predictions(changed, *star), graph.predictions(model, *plain_star)),
        "off, bitwise": graph.same(graph.predictions(off, *pair), base),
        "input unchanged": graph.same(pair[0][0][0], plain_pair[0][0][0]),
        "empty": none == [],
        "receipt": receipt,
    }


def window():
    """The filter of SAFREE: the change for a part of the run, the original text afterwards."""
    model, clip = models("demo")
    options = "alpha=0, rows=all, gamma=0.5, svf_t0=0, svf_k=100"
    changed, encoder, _, _ = steered(model, clip, "safree", options=options)
    pair = graph.text_pair(encoder, "a red circle")
    base = graph.predictions(model, *pair)
    found = graph.predictions(changed, *pair)
    one = steered(model, clip, "safree", options=options, conditioning=pair[0])[2]
    latents = [graph.draw(*form, pair[1], cfg=1.0) for form in ((changed, pair[0]), (model, one), (model, pair[0]))]
    return {
        "same": [graph.same(a, b) for a, b in zip(found, base, strict=True)],
        "spans": [[extra.get("start_percent", 0), extra.get("end_percent", 1)] for _, extra in one],
        "pictures": [graph.difference(latents[0], latents[1]), graph.difference(latents[0], latents[2])],
    }


def batches():
    """A long prompt and a batch: every row has its own text."""
    model, clip = models("demo")
    changed, encoder, _, _ = steered(model, clip, "projection")
    none = graph.text(encoder, "blurred")
    long = "blue " * 80 + "circle"
    together = graph.predictions(changed, graph.text(encoder, "a red circle", long), none, batch=2)
    noise = graph.noise_for(model)
    each = [graph.predictions(changed, graph.text(encoder, p), none, noise=noise)[:, 0] for p in ("a red circle", long)]
    plain = graph.predictions(model, graph.text(encoder, "a red circle", long), none, batch=2)
    return {
        "mean": graph.difference(together[:, 0], sum(each) / 2),
        "acts": graph.difference(together[:, 0], plain[:, 0]),
    }


def refused():
    model, clip = models("demo")
    stamped = steered(model, clip, "lancet")[1]
    joined = [[torch.cat([graph.text(stamped, "a")[0][0]] * 2, 1), graph.text(stamped, "a")[0][1]]]
    check = graph.PACK.NODE_CLASS_MAPPINGS["MembraneTextSteer"].VALIDATE_INPUTS
    unknown = graph.predictions(steered(model, clip, "projection")[0], *graph.text_pair(clip, "a red circle"))
    return {
        "unstamped": graph.refusal(steered, model, clip, "lancet", conditioning=graph.text(clip, "a circle")),
        "joined": graph.refusal(steered, model, clip, "lancet", conditioning=joined),
        "option": check("lancet", "lamb=1"),
        "gate": check("lancet", "gate=ajar"),
        "fine": check("lancet", "lam=0.1, gate=words"),
        "unknown words are left alone": graph.same(
            unknown, graph.predictions(model, *graph.text_pair(clip, "a red circle"))
        ),
    }


def main():
    return {
        "forms": {kind: {method: forms(kind, method) for method in METHODS} for kind in ("demo", "sdxl")},
        "window": window(),
        "batches": batches(),
        "refused": refused(),
    }

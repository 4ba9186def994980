"""Batches of different prompts, in every way a graph can make them, against the same prompts one at a time."""

import graph
import tiny
import torch

SIGMAS = (5.0, 0.3)


def answers(model, positive, negative, noise):
    return graph.predictions(model, positive, negative, noise=noise, sigmas=SIGMAS)


def alone(model, positive, negative, noise):
    """[levels, 2, B, c, h, w], every picture by itself, each with a positive and a negative entry of its own."""
    rows = zip(positive, negative, noise, strict=True)
    return torch.cat([answers(model, [p], [n], own[None]) for p, n, own in rows], dim=2)


def stacked(entries):
    """One conditioning [n, T, d] of several, as prompt schedules make it; what else it says is said of the first."""
    facts = dict(entries[0][1])
    if facts.get("pooled_output") is not None:
        facts["pooled_output"] = torch.cat([own["pooled_output"] for _, own in entries])
    return [[torch.cat([rows for rows, _ in entries]), facts]]


def compare(kind, gate):
    model, clip = (graph.node("DemoModel")[:2]) if kind == "demo" else (tiny.unet(kind), tiny.text_encoder(kind))
    some = graph.membranes(model, clip, gate=gate)
    mapped, encoder = graph.apply(model, clip, some, rows="cond")
    # words are lost where prompts are stacked, so all of them are encoded without: gates go by the vectors
    one, two = graph.text(clip, "a red circle", "a red star")
    named, other = graph.text(encoder, "a red circle", "a red star")
    none = graph.text(clip, "blurred")[0]
    four = graph.noise_for(model, batch=4)
    many = {
        "batch of four": ([named], [named] * 4),
        "stacked two, batch of four": (stacked([one, two]), [one, two, one, two]),
        "stacked four, batch of four": (stacked([one, two, two, one]), [one, two, two, one]),
    }
    result = {}
    for name, (together, apart) in many.items():
        batch = answers(mapped, together, [none], four)
        plain = answers(model, together, [none], four)
        result[name] = {
            "acts": graph.difference(batch, plain),
            "alone": graph.difference(batch, alone(mapped, apart, [none] * 4, four)),
            "bitwise plain": [graph.same(batch[:, :, i], plain[:, :, i]) for i in range(len(four))],
        }
    together = answers(mapped, [named, other], [none], four)
    first, second = (answers(mapped, [entry], [none], four) for entry in (named, other))
    result["combined, batch of four"] = {
        "acts": graph.difference(together, answers(model, [named, other], [none], four)),
        "alone": graph.difference(together, (first + second) / 2),
    }
    pair = answers(mapped, [named], stacked([none, one]), four)
    apart = alone(mapped, [named] * 4, [none, one, none, one], four)
    result["stacked negatives"] = {
        "acts": graph.difference(pair, answers(model, [named], stacked([none, one]), four)),
        "alone": graph.difference(pair, apart),
    }
    return result


def lengths():
    """231 rows beside 77, either way round."""
    model, clip = tiny.unet(), tiny.text_encoder()
    some = graph.membranes(model, clip)
    long = "a circle, " + "red and blue, " * 49
    result = {"rows": graph.text(clip, long)[0][0].shape[1]}
    for name, prompts in (("long", (long, "blurred")), ("long negative", ("a circle", long))):
        conditionings = [graph.text(clip, prompt) for prompt in prompts]
        forms = {"plain": model}
        forms |= {rows: graph.apply(model, clip, some, rows)[0] for rows in ("cond", "all")}
        forms["weights"] = graph.apply(model, clip, some, act_on="weights")[0]
        made = {form: graph.predictions(changed, *conditionings) for form, changed in forms.items()}
        result[name] = {
            "acts": graph.difference(made["all"], made["plain"]),
            "weights": graph.difference(made["weights"], made["all"]),
            "cond is all for the prompt, bitwise": graph.same(made["cond"][:, 0], made["all"][:, 0]),
            "cond spares the negative, bitwise": graph.same(made["cond"][:, 1], made["plain"][:, 1]),
        }
    return result


def main():
    return {"demo words": compare("demo", "words"), "sdxl always": compare("sdxl", "always"), "lengths": lengths()}

"""One erasure in its forms - on the text, in the weights, as a LoRA through the host's own loader - on every family."""

import graph
import tiny

from nodes import LoraLoader


def through_lora(model, clip, some, name, precision):
    """MODEL with the file that Save Membrane writes, loaded by the host's node."""
    (listed,) = graph.node("Save", some, name, "lora", precision, False, model, clip)
    return LoraLoader().load_lora(model, clip, listed.removeprefix("loras/"), 1.0, 1.0)[0]


def compare(family):
    if family == "demo":
        model, clip, _ = graph.node("DemoModel")
    else:
        model, clip = tiny.unet(family), tiny.text_encoder(family)
    some = graph.membranes(model, clip)
    more = graph.changed(some[0], strength=1.001)
    forms = {
        "base": model,
        "text": graph.apply(model, clip, some)[0],
        "cond": graph.apply(model, clip, some, rows="cond")[0],
        "weights": graph.apply(model, clip, some, act_on="weights")[0],
        "lora": through_lora(model, clip, some, f"{family}-32", "fp32"),
        "lora fp16": through_lora(model, clip, some, f"{family}-16", "fp16"),
        "a thousandth more": graph.apply(model, clip, [more])[0],
    }
    positive, negative = graph.text(clip, "a red circle"), graph.text(clip, "blue square, blurred")
    result = {"maps": sorted(some[0].erasure.maps)}
    for what, run in (("prediction", graph.predictions), ("latents", graph.draw)):
        found = {name: run(form, positive, negative) for name, form in forms.items()}
        text = found.pop("text")
        result[what] = {name: graph.difference(other, text) for name, other in found.items()}
    return result


def main():
    return {family: compare(family) for family in ("demo", *tiny.KINDS)}

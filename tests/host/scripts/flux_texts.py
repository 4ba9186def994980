"""Maps on T5's rows, gates by words, long prompts and areas on a tiny Flux."""

import importlib

import graph
import tiny

from erasure_core.closed_form import METHODS

SIGMAS = (1.0, 0.6, 0.2)
LONG = "a blue square on a green hill under a red circle beside the sea, " * 24  # more than 256 tokens of T5
READER = "diffusion_model.txt_in.weight"


def answers(model, positive, negative):
    return graph.predictions(model, positive, negative, batch=2, sigmas=SIGMAS)


def by_hand(model, membrane):
    """The text's matrix ``W`` as ``W + W D Y``, reckoned in float64 and added as a whole difference."""
    clone, weight = model.clone(), model.get_key_patches(READER)[READER][0][0].double()  # the weight before patches
    (factor,) = membrane.erasure.maps["t5"].factors
    change = weight @ factor.up.double() @ factor.down.double()
    assert clone.add_patches({READER: ("diff", (change.float(),))}) == [READER]
    return clone


def area(conditioning, x):
    return [[rows, {**more, "area": (8, 4, 0, x), "strength": 1.0}] for rows, more in conditioning]


def forms(model, clip, prompts):
    """The same erasure as a map on the text, as a patch by us and by hand; one prompt or several areas."""
    (some,) = graph.membranes(model, clip)
    off = graph.apply(model, clip, [graph.changed(some, strength=0.0)])[0]
    made = {"nothing": answers(model, *prompts), "off": answers(off, *prompts)}
    for act_on in ("text", "weights"):
        made[act_on] = answers(graph.apply(model, clip, [some], "all", act_on)[0], *prompts)
    made["by hand"] = answers(by_hand(model, some), *prompts)
    cond = answers(graph.apply(model, clip, [some], "cond")[0], *prompts)
    return {
        "acts": graph.difference(made["text"], made["nothing"]),
        "off, bitwise": graph.same(made["off"], made["nothing"]),
        "weights": graph.difference(made["weights"], made["text"]),
        "by hand": graph.difference(made["by hand"], made["text"]),
        "cond: positive": graph.difference(cond[:, 0], made["text"][:, 0]),
        "cond: negative, bitwise": graph.same(cond[:, 1], made["nothing"][:, 1]),
    }


def gates(model, clip, gate):
    """Prompts that name the concept and that do not, encoded by the CLIP that the node returns."""
    (some,) = graph.membranes(model, clip, gate=gate)
    mapping, encoder = graph.apply(model, clip, [some], "cond")
    always = graph.apply(model, clip, [graph.changed(some, gate="always")], "cond")[0]
    result = {}
    for name, prompt in {
        "named": "a red circle",
        "not named": "a red square",
        "named late": LONG,
        "not named, long": LONG.replace("circle", "square"),
    }.items():
        pair = graph.text_pair(encoder, prompt)
        made = answers(mapping, *pair)
        plain = answers(model, *graph.text_pair(clip, prompt))
        result[name] = {
            "rows": pair[0][0][0].shape[1],
            "change": graph.difference(made, plain),
            "closed, bitwise": graph.same(made, plain),
            "open, bitwise": graph.same(made, answers(always, *pair)),
            "words": "circle" in str(pair[0][0][1]["membrane_tokens"]["text"]),
        }
    return result


def vectors(model, clip):
    """What the model's side of the core makes of prompts, against the host's own encoding."""
    target = importlib.import_module(f"{graph.NAME}.nodes.model").HostModel(model, clip)
    prompts = ["a red circle", LONG, ""]
    encoded = target.encode(prompts)
    wanted = [graph.text(clip, prompt)[0][0][0] for prompt in prompts]
    own = encoded.extras["rows"].tolist()
    return {
        "family": target.family,
        "spaces": dict(target.spaces),
        "lengths": own,
        "host lengths": [len(rows) for rows in wanted],
        "rows": max(graph.difference(encoded.hidden[i, :n], wanted[i]) for i, n in enumerate(own)),
        "beyond": float(encoded.hidden[0, own[0] :].abs().max()),
        "last token": [int(encoded.tokens["t5"][i, 0, int(end)]) for i, (end,) in enumerate(encoded.eos.tolist())],
        "words": [len(words) for words in encoded.words],
    }


def methods(model, clip):
    """What every closed-form method changes, and its receipt."""
    (concepts,) = graph.node("Concepts", "circle -> square", "object", "cross\ntriangle")
    pair, result = graph.text_pair(clip, "a red circle"), {}
    plain = answers(model, *pair)
    for method in METHODS:
        found = graph.node("Erase", model, clip, concepts, method, 1.0, "")
        result[method] = {"change": graph.difference(answers(found[0], *pair), plain), "receipt": found[3]}
    return result


def firewall(model, clip):
    """A prompt that names a rule's concept and one that does not."""
    (concepts,) = graph.node("Concepts", "circle -> square", "object", "")
    guarded, encoder = graph.node("Firewall", model, clip, "(none)", 0.5, False, concepts, unique_id="9")[:2]
    result = {}
    for prompt in ("a red circle", "a red star"):
        made = answers(guarded, *graph.text_pair(encoder, prompt))
        plain = answers(model, *graph.text_pair(clip, prompt))
        result[prompt] = {"change": graph.difference(made, plain), "bitwise": graph.same(made, plain)}
    return result


def refusals(model, clip):
    (concepts,) = graph.node("Concepts", "circle -> square", "object", "")
    other = tiny.text_encoder("sd1")
    return {
        "values only": graph.refusal(graph.node, "Erase", model, clip, concepts, "time", 1.0, "with_to_k=no"),
        "layer by layer": graph.refusal(graph.node, "Erase", model, clip, concepts, "speed", 1.0, "parity=yes"),
        "another encoder": graph.refusal(graph.node, "Erase", model, other, concepts, "uce", 1.0, ""),
    }


def main():
    model, clip = tiny.unet("flux-dev"), tiny.text_encoder("flux-dev")
    short, long = graph.text_pair(clip, "a red circle"), graph.text_pair(clip, LONG)
    left, right = (area(graph.text(clip, prompt), x) for prompt, x in (("a red circle", 0), ("a blue square", 4)))
    return {
        "vectors": vectors(model, clip),
        "short": forms(model, clip, short),
        "long": forms(model, clip, long),
        "schnell": forms(tiny.unet("flux-schnell"), clip, short),
        "areas": forms(model, clip, (left + right, short[1])),
        "words": gates(model, clip, "words"),
        "methods": methods(model, clip),
        "firewall": firewall(model, clip),
        "refusals": refusals(model, clip),
    }

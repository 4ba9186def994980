"""The Concept Firewall in a graph: whom it touches, with what, and that nothing else changes."""

import sys

import graph
import off_and_sums
import regions
import tiny
import torch

from nodes import ConditioningAverage, ConditioningConcat

RULES = "circle | disc -> square\nheart -> star"
NAMED = ["a red circle", "two Circles", "a disc", "[circle]", "((a red circle)) on blue", "(circle:0.2)"]
NAMED += ["a (red (circle:1.3):0.5), blurred", "a \\(circle\\)", "blue " * 80 + "circle", "a blue heart"]
OTHER = ["a red star", "a semicircle", "", "(moon:1.4) and a [cross]", "blue " * 80 + "star"]
SAMPLERS = ("euler", "dpmpp_2m")


def models(kind):
    return graph.node("DemoModel")[:2] if kind == "demo" else (tiny.unet(kind), tiny.text_encoder(kind))


def wall(model, clip, rules=RULES, vectors=True, sensitivity=0.5, policy="(none)", node_id="9"):
    """MODEL and CLIP of a Concept Firewall on connected concepts."""
    concepts = graph.node("Concepts", rules, "object", "")[0] if rules else None
    return graph.node("Firewall", model, clip, policy, sensitivity, vectors, concepts, unique_id=node_id)[:2]


def pictures():
    """Whether each prompt's latents are bitwise those without a firewall."""
    model, clip = models("demo")
    guarded, encoder = wall(model, clip)
    result = {}
    for sampler in SAMPLERS:
        for prompt in NAMED + OTHER:
            with_it = graph.draw(guarded, graph.text(encoder, prompt), graph.text(encoder, "blurred"), sampler=sampler)
            without = graph.draw(model, graph.text(clip, prompt), graph.text(clip, "blurred"), sampler=sampler)
            result[f"{sampler}: {prompt}"] = graph.same(with_it, without)
    return result


def told():
    """What the page hears of each prompt: membranes, gains, mode."""
    model, clip = models("demo")
    guarded, encoder = wall(model, clip)
    result = {}
    with graph.events() as sent:
        for prompt in [*NAMED, *OTHER, "hearts and circles"]:
            del sent[:]
            graph.predictions(guarded, *graph.text_pair(encoder, prompt), batch=1, sigmas=(3.0,))
            ((_, data),) = sent  # none for the negative prompt
            assert (data["node_id"], data["negative"]) == ("9", False)
            result[prompt] = [data["membranes"], data["gains"], data["mode"]]
    return result


def negative():
    model, clip = models("demo")
    guarded, encoder = wall(model, clip)
    result = {}
    for prompt in ("a red star", "a red circle"):
        changed = graph.predictions(guarded, *graph.text_pair(encoder, prompt, "a blue circle"))
        plain = graph.predictions(model, *graph.text_pair(clip, prompt, "a blue circle"))
        result[prompt] = [graph.same(changed[:, i], plain[:, i]) for i in (0, 1)]
    return result


def together(kind):
    """Prompts side by side against the same prompts by themselves; each has its own map."""
    model, clip = models(kind)
    guarded, encoder = wall(model, clip)
    noise, none = graph.noise_for(model, batch=4), graph.text(encoder, "blurred")
    prompts = ("a red circle", "a blue heart", "a red star", "a heart on a circle")

    def answers(form, positive, own=noise):
        return graph.predictions(form, positive, none, noise=own, sigmas=(5.0, 0.3))[:, 0]

    entries = graph.text(encoder, *prompts)
    combined, each = answers(guarded, entries), [answers(guarded, [entry]) for entry in entries]
    plain = graph.text(clip, *prompts)
    pooled = [facts["pooled_output"] for _, facts in plain]
    facts = {**plain[0][1], "pooled_output": None if pooled[0] is None else torch.cat(pooled)}
    stacked = [[torch.cat([rows for rows, _ in plain]), facts]]
    batch, base = answers(guarded, stacked), answers(model, stacked)
    alone = torch.cat([answers(guarded, [e], n[None]) for e, n in zip(plain, noise, strict=True)], dim=1)
    return {
        "combined acts": graph.difference(combined, answers(model, entries)),
        "combined": graph.difference(combined, sum(each) / len(each)),
        "the same picture of a batch": graph.difference(
            each[0], torch.cat([answers(guarded, entries[:1], n[None]) for n in noise], dim=1)
        ),
        "stacked acts": graph.difference(batch, base),
        "stacked": graph.difference(batch, alone),
        "stacked, bitwise plain": [graph.same(batch[:, i], base[:, i]) for i in range(4)],
    }


def by_vectors():
    """Conditionings without words, with and without leave to judge them by their vectors."""
    model, clip = models("demo")
    result = {}
    for vectors in (True, False):
        guarded, encoder = wall(model, clip, vectors=vectors)
        circle, star, none = (graph.text(encoder, prompt) for prompt in ("a red circle", "a red star", ""))
        cases = {
            "unstamped": graph.text(clip, "a red circle"),
            "unstamped, other": graph.text(clip, "a red star"),
            "concat": ConditioningConcat().concat(star, circle)[0],
            "average": ConditioningAverage().addWeighted(star, circle, 0.2)[0],
        }
        for name, entry in cases.items():
            with graph.events() as sent:
                changed = graph.predictions(guarded, entry, none, batch=1)
            ((_, data),) = sent
            same = graph.same(changed, graph.predictions(model, entry, none, batch=1))
            result[f"{name}, {vectors}"] = [data["membranes"], data["gains"], data["mode"], same]
    return result


def reference(model, clip, prompt, vector):
    """A vector changed as ``x + sum of up_i (down_i x)``, in plain loops, by the maps of a firewall made by hand."""
    core, target = (sys.modules[f"{graph.NAME}.{name}"] for name in ("erasure_core.firewall", "nodes.model"))
    hand = core.Firewall(core.parse_policy(RULES), target.HostModel(model, clip))
    maps = hand.map_for(hand.screened([prompt])[1][0])
    (emap,) = (m for space, m in maps.items() if (space == "sdxl_pooled") == (vector.dim() == 1))
    (factor,) = emap.factors
    changed = vector.double().reshape(-1, vector.shape[-1]).clone()
    for own, x in zip(changed, changed.clone(), strict=True):
        for up, down in zip(factor.up.double().T, factor.down.double(), strict=True):
            own += up * sum(d * v for d, v in zip(down.tolist(), x.tolist(), strict=True))
    return changed.float().reshape(vector.shape)


def by_hand(kind):
    """What attention reads of a prompt that touches two rules, and the label, against the reference."""
    model, clip = models(kind)
    guarded, encoder = wall(model, clip)
    prompts = graph.text_pair(encoder, "a heart on a circle", "a blue circle")
    labels = []
    with Labels(model, labels):
        base, rows = (regions.read_by_attention(form, *prompts) for form in (model, guarded))
    positive = next(i for i in (0, 1) if not graph.same(rows[i], base[i]))
    result = {
        "acts": graph.difference(rows[positive], base[positive]),
        "reference": graph.difference(rows[positive], reference(model, clip, "a heart on a circle", base[positive])),
        "negative, bitwise": graph.same(rows[1 - positive], base[1 - positive]),
    }
    if labels:
        before, after = labels[0][positive], labels[1][positive]
        width = prompts[0][0][1]["pooled_output"].shape[1]
        expected = reference(model, clip, "a heart on a circle", before[:width])
        result["label acts"] = graph.difference(after[None, :width], before[None, :width])
        result["label"] = graph.difference(after[None, :width], expected[None])
        result["sizes, bitwise"] = graph.same(after[width:], before[width:])
        result["negative label, bitwise"] = graph.same(labels[1][1 - positive], labels[0][1 - positive])
    return result


class Labels:
    """Keeps what the denoiser reads as SDXL's label."""

    def __init__(self, model, seen):
        self.part, self.seen, self.hook = getattr(model.model.diffusion_model, "label_emb", None), seen, None

    def __enter__(self):
        if self.part is not None:
            self.hook = self.part.register_forward_pre_hook(lambda module, args: self.seen.append(args[0].clone()))

    def __exit__(self, *error):
        if self.hook is not None:
            self.hook.remove()


def in_regions():
    """Which texts that attention reads are changed: the negative prompt, the prompt, a region of a circle and one not.

    Each text of a region is judged once per sampling, however many layers and steps bring it again.
    """
    model, clip = models("demo")
    couple = regions.Couple([graph.text(clip, text)[0][0] for text in ("a blue circle", "a red moon")])
    result = {}
    for vectors in (True, False):
        guarded, encoder = wall(model, clip, vectors=vectors)
        for prompt in ("a red circle", "a red star"):
            prompts = graph.text_pair(encoder, prompt)
            rows, base = (regions.read_by_attention(couple.put(form), *prompts) for form in (guarded, model))
            result[f"{prompt}, {vectors}"] = [graph.same(a, b) for a, b in zip(rows, base, strict=True)]
    return {"bitwise": result, "judged": judged_in_regions(model, clip, couple)}


def judged_in_regions(model, clip, couple):
    guarded, encoder = wall(model, clip)
    firewall, seen = sys.modules[f"{graph.NAME}.nodes.screening"].Firewall, []
    before = firewall.touched
    firewall.touched = lambda self, prompt: seen.append(prompt) or before(self, prompt)
    try:
        graph.predictions(couple.put(guarded), *graph.text_pair(encoder, "a red star"), batch=1)
    finally:
        firewall.touched = before
    return len(seen)


def beside_other_nodes():
    """Firewall and Erase or Apply in a row, either way round: the rows that attention reads."""
    model, clip = models("demo")
    concepts = graph.node("Concepts", "circle -> square", "object", "")[0]
    gated = graph.membranes(model, clip, "circle -> square", gate="words")

    def guard(m, c):
        return wall(m, c, "heart -> star")

    def erase(m, c):
        return graph.node("Erase", m, c, concepts, "uce", 1.0, "", unique_id="5")[:2]

    def apply(m, c):
        return graph.apply(m, c, gated, "cond", node_id="6")

    def guard_too(m, c):
        return wall(m, c, "circle -> square", node_id="10")

    chains = {"none": (), "guard": (guard,), "erase": (erase,), "apply": (apply,), "guard too": (guard_too,)}
    chains |= {"guard, erase": (guard, erase), "erase, guard": (erase, guard)}
    chains |= {"guard, apply": (guard, apply), "apply, guard": (apply, guard), "two guards": (guard, guard_too)}
    seen = {}
    for name, chain in chains.items():
        last = model, clip
        for step in chain:
            last = step(*last)
        for prompt in ("a red heart", "a red circle", "a red star", "a heart on a circle"):
            seen[name, prompt] = graph.predictions(last[0], *graph.text_pair(last[1], prompt), batch=1)
    pairs = {"guard, erase": "erase", "erase, guard": "erase", "guard, apply": "apply"}
    pairs |= {"apply, guard": "apply", "two guards": "guard too"}
    result = {}
    for pair, other in pairs.items():
        both, x = seen[pair, "a heart on a circle"], "a heart on a circle"
        changes = [graph.difference(both, seen[single, x]) for single in ("none", "guard", other)]
        result[pair] = {
            "star is as without the firewall": graph.same(seen[pair, "a red star"], seen[other, "a red star"]),
            "circle is as without the firewall": graph.same(seen[pair, "a red circle"], seen[other, "a red circle"]),
            "heart is as with the firewall alone": graph.same(seen[pair, "a red heart"], seen["guard", "a red heart"]),
            "both act": min(changes),
        }
    return result


def inputs():
    """What a node was given is unchanged while and after it was used; nothing of ours stays on the base."""
    model, clip = models("sdxl")
    before = off_and_sums.facts(model, clip)
    prompts = graph.text_pair(clip, "a red circle")
    first = graph.predictions(model, *prompts)
    guarded, encoder = wall(model, clip)
    changed = graph.predictions(guarded, *graph.text_pair(encoder, "a red circle"))
    after = off_and_sums.facts(model, clip)
    return {
        "changed inputs": off_and_sums.differing(before, after),
        "acts": graph.difference(changed, first),
        "base afterwards, bitwise": graph.same(graph.predictions(model, *prompts), first),
        "vectors, bitwise": graph.same(graph.text(encoder, "a red circle")[0][0], prompts[0][0][0]),
        "run left in the options": "membrane" in str(guarded.model_options.get("transformer_options", {}).keys()),
    }


def crowd():
    """What a prompt with more concepts than can be erased at once is told."""
    model, clip = models("demo")
    words = [
        f"{a}{b}" for a in "bdfgklmp" for b in ("anto", "erno", "ilpa", "osti", "ulbe", "yrka", "efla", "ogra", "axu")
    ]
    guarded, encoder = wall(model, clip, "\n".join(words), vectors=False)
    return {
        str(count): graph.refusal(
            graph.predictions, guarded, *graph.text_pair(encoder, ", ".join(words[:count])), batch=1, sigmas=(3.0,)
        )
        for count in (64, 65)
    }


def main():
    return {
        "pictures": pictures(),
        "told": told(),
        "negative": negative(),
        "together": {kind: together(kind) for kind in ("demo", "sdxl")},
        "vectors": by_vectors(),
        "by hand": {kind: by_hand(kind) for kind in ("demo", "sdxl")},
        "regions": in_regions(),
        "beside": beside_other_nodes(),
        "inputs": inputs(),
        "crowd": crowd(),
    }

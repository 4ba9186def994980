"""A pack that couples regions, as such packs do it: texts of its own inside cross-attention, mixed back by masks."""

import math

import graph
import tiny
import torch


class Couple:
    """Every positive row is asked again with each region's text (and its own), the answers are weighted by masks.

    ``apart``: hands over keys and values as two tensors, as some packs do.
    """

    def __init__(self, regions, apart=False):
        self.regions, self.apart = regions, apart

    def put(self, model):
        result = model.clone()
        result.set_model_attn2_patch(self.before)
        result.set_model_attn2_output_patch(self.after)
        return result

    def before(self, n, context, value, extra):
        which = extra["cond_or_uncond"]
        size = len(n) // len(which)
        asked, texts = [], []
        for i, kind in enumerate(which):
            query, own = n[i * size : (i + 1) * size], context[i * size : (i + 1) * size]
            mine = [own] if kind == 1 else [own, *(region.expand(size, -1, -1) for region in self.regions)]
            asked += [query] * len(mine)
            texts += mine
        longest = math.lcm(*(text.shape[1] for text in texts))
        together = torch.cat([text.repeat(1, longest // text.shape[1], 1) for text in texts])
        return torch.cat(asked), together, together.clone() if self.apart else together

    def after(self, out, extra):
        which, parts = extra["cond_or_uncond"], []
        rows = sum(1 if kind == 1 else 1 + len(self.regions) for kind in which)
        pieces = list(out.chunk(rows))
        for kind in which:
            mine = [pieces.pop(0) for _ in range(1 if kind == 1 else 1 + len(self.regions))]
            weights = masks(mine[0].shape[1], len(mine))
            parts.append(sum(weight[None, :, None] * piece for weight, piece in zip(weights, mine, strict=True)))
        return torch.cat(parts)


def masks(pixels, count):
    """[count, pixels], adding up to 1: the first one everywhere, the others in stripes."""
    stripes = torch.arange(pixels) * max(1, count - 1) // pixels
    shares = [torch.full((pixels,), 1.0 if count == 1 else 0.3)]
    return [*shares, *(0.7 * (stripes == i).float() for i in range(count - 1))]


def read_by_attention(model, *prompts):
    """The text that the first cross-attention reads, [rows, T, d]."""
    (name, *_), seen = [n for n, _ in model.model.named_modules() if n.endswith("attn2.to_k")], []
    hook = model.model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        graph.predictions(model, *prompts, batch=1, sigmas=(3.0,))
    finally:
        hook.remove()
    return seen[0]


def mapped(rows, membrane):
    """``x + D Y x`` in float64."""
    (factor,) = next(emap for space, emap in membrane.erasure.maps.items() if space != "sdxl_pooled").factors
    wide = rows.double()
    return (wide + wide @ factor.down.double().T @ factor.up.double().T).float()


def forms(kind, apart):
    """A membrane on the text beside the couple, against the same couple with edited weights."""
    model, clip = tiny.unet(kind), tiny.text_encoder(kind)
    some = graph.membranes(model, clip)
    regions = [graph.text(clip, text)[0][0] for text in ("a blue circle", "a heart, " * 60)]
    couple = Couple(regions, apart)
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")

    def with_couple(rows, act_on="text", strength=1.0):
        given = [graph.changed(some[0], strength=strength)]
        return couple.put(graph.apply(model, clip, given, rows, act_on)[0])

    plain = couple.put(model)
    graphs = {
        "nothing": model,
        "couple": plain,
        "off": with_couple("all", strength=0.0),
        "text": with_couple("all"),
        "couple first": graph.apply(plain, clip, some, "all")[0],
        "weights": with_couple("all", "weights"),
        "cond": with_couple("cond"),
    }
    made = {name: graph.predictions(form, *prompts) for name, form in graphs.items()}
    rows, base = read_by_attention(graphs["cond"], *prompts), read_by_attention(plain, *prompts)
    negative = 0 if graph.same(rows[0], base[0]) else -1  # the host puts either prompt first
    positive = [i for i in range(len(base)) if i != negative % len(base)]
    return {
        "couple acts": graph.difference(made["couple"], made["nothing"]),
        "membrane acts": graph.difference(made["text"], made["couple"]),
        "off, bitwise": graph.same(made["off"], made["couple"]),
        "both orders, bitwise": graph.same(made["couple first"], made["text"]),
        "weights": graph.difference(made["weights"], made["text"]),
        "cond: negative row is bitwise": graph.same(rows[negative], base[negative]),
        "cond: the others are mapped": graph.difference(rows[positive], mapped(base[positive], some[0])),
        "cond: rows": len(rows),
    }


def gates():
    """Gain of every row that attention reads, by the words gate: known prompts exactly, others by likeness."""
    model, clip, _ = graph.node("DemoModel")
    some = graph.membranes(model, clip, gate="words")
    mapping, encoder = graph.apply(model, clip, some, "all")
    texts = ("a blue circle", "a red heart")
    couple = Couple([graph.text(clip, text)[0][0] for text in texts])
    result = {}
    for prompt in ("a red circle", "a red star"):
        prompts = graph.text(encoder, prompt), graph.text(encoder, "blurred")
        rows, base = (read_by_attention(couple.put(form), *prompts) for form in (mapping, model))
        change, full = (rows - base).double(), (mapped(base, some[0]) - base).double()
        gains = [float((c * f).sum() / (f * f).sum()) for c, f in zip(change, full, strict=True)]
        result[prompt] = {
            "gains": gains,
            "bitwise": [graph.same(one, other) for one, other in zip(rows, base, strict=True)],
        }
    return result


def main():
    return {
        "sd1": forms("sd1", apart=False),
        "sd1 apart": forms("sd1", apart=True),
        "sdxl": forms("sdxl", apart=False),
        "gates": gates(),
    }

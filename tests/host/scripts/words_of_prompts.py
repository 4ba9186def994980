"""What the gate of words says of prompts, as the page is told: gain and mode of each."""

import graph
import tiny
import torch
from safetensors.torch import save_file

from nodes import (
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
)

WRITTEN = [
    "a red circle",
    "two Circles",
    "(circle:0.2)",
    "((a red circle)) on blue",
    "a (red (circle:1.3):0.5), blurred",
    "[circle]",
    "a \\(circle\\)",
    "a circle",
    "a disc",
    "a red star",
    "a semicircle",
    "",
]
FILLER = "blue " * 74  # with it the next word is the last of its chunk


def written(model, encoder):
    """Gain and mode by prompt."""
    none = graph.text(encoder, "")
    found = {}
    for prompt in WRITTEN:
        ((gains, mode),) = graph.gains(model, graph.text(encoder, prompt), none).values()
        found[prompt] = [gains, mode]
    return found


def across_the_seam():
    """A phrase of two words whose first ends one chunk and whose second begins the next."""
    model, clip, _ = graph.node("DemoModel")
    some = graph.membranes(model, clip, "red circle -> blue square", gate="words")
    mapped, encoder = graph.apply(model, clip, some, "cond", node_id="7")
    result = {}
    for last in ("circle", "star"):
        prompt = f"{FILLER}red {last}"
        chunks = encoder.tokenize(prompt)["l"]
        words = [clip.tokenizer.clip_l.untokenize([pair])[0][1] for pair in (chunks[0][75], chunks[1][1])]
        ((gains, mode),) = graph.gains(mapped, graph.text(encoder, prompt), graph.text(encoder, "")).values()
        result[last] = {"chunks": len(chunks), "seam": words, "gains": gains, "mode": mode}
    return result


def through_nodes(model, encoder):
    """Mode and gain after the host's own nodes have worked on a conditioning."""
    circle, star, none = (graph.text(encoder, prompt) for prompt in ("a red circle", "a red star", ""))
    made = {
        "concat": ConditioningConcat().concat(star, circle)[0],
        "concat, other": ConditioningConcat().concat(star, star)[0],
        "average": ConditioningAverage().addWeighted(star, circle, 0.2)[0],
        "zero": ConditioningZeroOut().zero_out(circle)[0],
        "range": ConditioningSetTimestepRange().set_range(circle, 0.0, 1.0)[0],
        "combine": ConditioningCombine().combine(circle, star)[0],
        "stacked": [[torch.cat([circle[0][0], star[0][0]]), circle[0][1]]],
    }
    return {name: sorted(graph.gains(model, entry, none).values()) for name, entry in made.items()}


def by_gate(model, clip):
    """Gains, mode, and whether the answers are bitwise those of the plain model, for each gate and prompt."""
    result = {}
    for gate in ("words", "likeness", "either", "both"):
        some = graph.membranes(model, clip, gate=gate)
        mapped, encoder = graph.apply(model, clip, some, rows="cond", node_id="7")
        for prompt in ("a red circle", "a red star"):
            pair = graph.text_pair(encoder, prompt)
            ((gains, mode),) = graph.gains(mapped, *pair).values()
            same = graph.same(*(graph.predictions(form, *pair, batch=1) for form in (mapped, model)))
            result[f"{gate}: {prompt}"] = [gains[0][0], mode, same]
    return result


def with_an_embedding(folder):
    """A textual inversion of two vectors in the prompt: it is read, and the words beside it are seen."""
    save_file(
        {"emb_params": torch.randn((2, 64), generator=torch.Generator().manual_seed(1))}, f"{folder}/look.safetensors"
    )
    model, clip = tiny.unet(), tiny.text_encoder(embedding_directory=folder)
    clip.tokenizer.clip_l.embedding_size = 64
    some = graph.membranes(model, clip, gate="words")
    mapped, encoder = graph.apply(model, clip, some, "cond", node_id="7")
    always = [graph.changed(some[0], gate="always")]
    result = {}
    for prompt in ("a embedding:look circle", "a embedding:look star", "circle embedding:look circle"):
        vectors = sum(not isinstance(token, int) for token, _ in clip.tokenize(prompt)["l"][0])
        prompts = graph.text(encoder, prompt), graph.text(encoder, "")
        forms = [graph.apply(model, clip, always, act_on=act_on)[0] for act_on in ("text", "weights")]
        ((text, (gains, mode)),) = graph.gains(mapped, *prompts).items()
        result[prompt] = {
            "vectors": vectors,
            "text": text,
            "gains": gains,
            "mode": mode,
            "weights": graph.difference(*(graph.predictions(form, *prompts) for form in forms)),
            "off, bitwise": graph.same(graph.predictions(mapped, *prompts), graph.predictions(model, *prompts)),
        }
    return result


def main(folder):
    model, clip, _ = graph.node("DemoModel")
    some = graph.membranes(model, clip, "circle | disc -> square", gate="words")
    mapped, encoder = graph.apply(model, clip, some, rows="cond", node_id="7")
    return {
        "written": written(mapped, encoder),
        "seam": across_the_seam(),
        "nodes": through_nodes(mapped, encoder),
        "gates": by_gate(model, clip),
        "embedding": with_an_embedding(folder),
    }

"""SLUG, single-layer unlearning gradient (arXiv 2407.11867): one gradient, one layer of the text encoder, one step.

The gradient of ``1 - cos(text, picture)`` says which layer holds the concept and not much else: large beside its weight
and unlike the gradient of what is to be kept. One step along it, as short as makes the encoder forget. The pictures'
side is frozen, so the mean embedding of captions stands in for it, and pipelines need no image encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...calibration import fitted
from ...concepts import ConceptSet
from ...erasure import Erasure
from ...errors import IllConditioned
from ...options import number
from ...templates import contexts, fill, sentences
from ..adapters import Adapter, LowRankLayer
from ..examples import Example, bank_prompts
from ..gradients import Factors, taped
from ..progress import Callbacks, Report
from ..scopes import text_layers_in
from ..texts import Library

if TYPE_CHECKING:
    from ..run import Job
    from ..trainable import TextNetwork

NAME = "slug"
SUMMARY = "SLUG: one step of one layer of the text encoder, chosen by its gradient; done in seconds."
WHY = (
    "For names and styles, where it must be quick and small: two gradients and about ten encodings of a few texts, the "
    "denoiser is never asked. The change is exact in as many terms as the concept has tokens. It acts on every prompt, "
    "without a gate. It forgets as far as the text encoder is concerned, which is less than that nothing is drawn: look "
    "at pictures before use. Preserved phrases choose the layer and say what must stay closer than the concept's name."
)
KEPT = 64  # texts that the gradient of what is to be kept is made of


@dataclass(frozen=True)
class Settings:
    """SLUG's numbers."""

    seed: int = number(0, 0, 2**53, "nothing here is random; kept for the recipe", whole=True)
    top: int = number(5, 1, 100, "forgotten: so many other texts are closer to its captions than its name", whole=True)
    search: int = number(10, 1, 60, "step lengths that are tried", whole=True)
    first: float = number(0.1, 1e-6, 100.0, "the first one, as a share of the weight's norm")
    strength: float = number(1.0, 0.0, 100.0, "the step is so many times the shortest that forgets")


@dataclass(frozen=True)
class Judged:
    """A layer: how large its gradient is beside its weight, and |cosine| with the gradient of what is kept."""

    layer: str
    importance: float
    alignment: float

    @property
    def depth(self) -> int:
        """Number of its block."""
        return int(re.findall(r"layers\.(\d+)", self.layer)[0])


def examples(concepts: ConceptSet, settings: Settings) -> list[Example]:
    """Every phrase, and its captions as one text for the record."""
    return [Example({"concept": phrase, "anchor": ""}) for concept in concepts for phrase in concept.phrases]


class Embeddings:
    """End-of-text rows of prompts, by the text encoder as it is now. ``prompts``: all that will be asked for."""

    def __init__(self, text: TextNetwork, library: Library) -> None:
        self._text, self._library = text, library

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[n, d] with gradients where they are on."""
        hidden = self._text.read(list(prompts)).hidden
        return hidden[torch.arange(len(hidden)), [self._library.padding(prompt)[0] for prompt in prompts]]

    @torch.no_grad()
    def of_captions(self, captions: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """[d]: the mean direction of each name's captions."""
        return {name: F.normalize(self(own), dim=1).mean(0) for name, own in captions.items()}


def forget_loss(embedding: Tensor, aim: Tensor) -> Tensor:
    """``1 - cos``, the mean over names: [n, d] and [n, d]."""
    return (1 - F.cosine_similarity(embedding, aim)).mean()


def retain_loss(embedding: Tensor, aim: Tensor, scale: float = 100.0) -> Tensor:
    """CLIP's contrastive loss between names and captions, [n, d] each, in both directions."""
    logits = scale * F.normalize(embedding, dim=1) @ F.normalize(aim, dim=1).T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def front(judged: Sequence[Judged]) -> list[Judged]:
    """Those that no other one beats in both: more important and less aligned."""
    return [
        one
        for one in judged
        if not any(other.importance > one.importance and other.alignment < one.alignment for other in judged)
    ]


def chosen(judged: Sequence[Judged]) -> tuple[str, ...]:
    """The deepest layer on the front, the most important one of its block; queries, keys and values go together."""
    best = max(front(judged), key=lambda one: (one.depth, one.importance)).layer
    block, _, part = best.rpartition(".")
    together = next((g for g in (("q_proj", "k_proj", "v_proj"), ("fc1", "fc2")) if part in g), (part,))
    known = {one.layer for one in judged}
    return tuple(layer for layer in (f"{block}.{name}" for name in together) if layer in known)


def step(factors: Mapping[str, Factors], size: float) -> Adapter:
    """``W + size * gradient`` of each layer."""
    return Adapter({layer: LowRankLayer(f.down, f.up, size) for layer, f in factors.items()})


def run(job: Job, callbacks: Callbacks) -> Erasure:
    """Both gradients, the choice, the search."""
    settings, model = job.settings, job.model
    shapes, weights = model.shapes(), model.weights()
    names = [phrase for concept in job.concepts for phrase in concept.phrases]
    captions = {p: [fill(t, p) for t in contexts(c.kind)] for c in job.concepts for p in c.phrases}
    bank = bank_prompts(job.concepts)
    bank = bank[:: max(1, len(bank) // KEPT)][:KEPT]
    kept = {prompt: [fill(template, prompt) for template in sentences("object")] for prompt in bank}
    library = Library(model, [*names, *bank, *(t for own in {**captions, **kept}.values() for t in own)])
    layers = text_layers_in(shapes, "all", model.clip_skip)
    with model.open_text() as text:
        places = {layer: text.place(layer) for layer in layers}
        embed = Embeddings(text, library)
        aims, kept_aims = embed.of_captions(captions), embed.of_captions(kept)
        aim, kept_aim = torch.stack([aims[n] for n in names]), torch.stack([kept_aims[n] for n in bank])
        with taped(places) as tape:
            forget = tape.gradients(forget_loss(embed(names), aim))
            retain = tape.gradients(retain_loss(embed(bank), kept_aim))
        judged = [_judged(layer, forget[layer], retain.get(layer), weights) for layer in layers if layer in forget]
        picked = [
            layer
            for root in dict.fromkeys(one.layer.split(".")[0] for one in judged)
            for layer in chosen([one for one in judged if one.layer.startswith(f"{root}.")])
        ]
        factors = {layer: forget[layer] for layer in picked}
        sizes = torch.tensor([[float(weights[f"{n}.weight"].norm()), float(f.dense().norm())] for n, f in factors.items()])
        whole, slope = (float(x) for x in sizes.norm(dim=0))

        @torch.no_grad()
        def cosines(size: float) -> tuple[Tensor, Tensor]:
            """Of names and of kept texts with their captions; how many kept texts are closer to a name's captions."""
            adapter = step(factors, size)
            adapter.to(next(places[picked[0]].module.parameters()).device)
            with adapter.attached({layer: places[layer] for layer in picked}), adapter.acting(True):
                own, others = embed(names), embed(bank)
            near = F.cosine_similarity(own, aim)
            closer = F.normalize(others, dim=1) @ F.normalize(aim, dim=1).T > near
            return torch.stack([near, closer.sum(0)]), F.cosine_similarity(others, kept_aim)

        before, kept_before = cosines(0.0)
        wanted = min(settings.top, len(bank))
        low, high, size = 0.0, 0.0, settings.first * whole / slope
        for tried in range(settings.search):
            (near, closer), _ = cosines(size)
            if callbacks.report is not None:
                callbacks.report(Report(tried + 1, settings.search, float(near.mean()), float(near.mean()), 0.0, None))
            if bool((closer >= wanted).all()):
                high = size
            else:
                low = size
            size = (low + high) / 2 if high else 2 * size
        if not high:
            raise IllConditioned(
                f"No step of {picked[0]} up to {low * slope / whole:.2g} of its weight makes the text encoder forget "
                f"'{names[0]}'. Allow more steps (search), ask for less (top=1), or train another method."
            )
        high *= settings.strength
        after, kept_after = cosines(high)
    adapter = step(factors, high)
    measured = {
        "layers": picked,
        "front": [one.layer for one in front(judged)],
        "step": high,
        "share": high * slope / whole,
        "cosine_before": float(before[0].mean()),
        "cosine_after": float(after[0].mean()),
        "kept_cosine_change": float((kept_after - kept_before).mean()),
        "kept_cosine_worst": float((kept_after - kept_before).min()),
    }
    made = job.made(adapter.deltas(), {"scope": picked[0].split(".")[0], "steps": 1}, measured)
    return fitted(made, model)


def _judged(layer: str, forget: Factors, retain: Factors | None, weights: Mapping[str, Tensor]) -> Judged:
    own = forget.dense()
    other = torch.zeros_like(own) if retain is None else retain.dense()
    aligned = float(F.cosine_similarity(own.flatten(), other.flatten(), dim=0).abs())
    return Judged(layer, float(own.norm() / weights[f"{layer}.weight"].double().norm()), aligned)

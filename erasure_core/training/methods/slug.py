"""SLUG, single-layer unlearning gradient (arXiv 2407.11867): one gradient, one layer of the text encoder, one step.

The gradient of ``1 - cos(text, picture)`` says which layer holds the concept and not much else: large beside its weight
and unlike the gradient of what is to be kept. One step along it, as short as makes the encoder forget. The pictures'
side is frozen, so the mean embedding of captions stands in for it, and pipelines need no image encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
    "For where it must be quick and small: two gradients, a dozen encodings of a few texts, and the denoiser is never "
    "asked. The change is exact in as many terms as the concept has tokens. It acts on every prompt, without a gate. "
    "Every text goes through the changed layer, start and end tokens and all: the published step (spare=0) that makes "
    "'star' disappear from the bundled model makes every other shape disappear, too. So the step is freed from what "
    "kept texts bring into that layer, and it is as long as needed until no caption of the concept is understood. Give "
    "neighbours as preserved phrases; they also choose the layer. Look at pictures before use."
)
Captions = Mapping[str, Sequence[str]]
KEPT = 64  # texts that the gradient of what is to be kept is made of


@dataclass(frozen=True)
class Settings:
    """SLUG's numbers."""

    seed: int = number(0, 0, 2**53, "nothing here is random; kept for the recipe", whole=True)
    top: int = number(5, 1, 100, "forgotten: so many other texts are closer to its captions than its name", whole=True)
    search: int = number(10, 1, 60, "step lengths that are tried", whole=True)
    spare: float = number(
        0.003,
        0.0,
        1e6,
        "take out of the step what reads kept texts, as a ridge of their rows' mean square; 0: as published",
    )
    first: float = number(0.1, 1e-6, 100.0, "the first one, as a share of the weight's norm")
    strength: float = number(1.2, 0.0, 100.0, "the step is so many times the shortest that forgets")


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


class Judge:
    """Names, their captions and kept texts by the text encoder as it is now, against what they were."""

    def __init__(self, text: TextNetwork, library: Library, captions: Captions, kept: Captions) -> None:
        self._text, self._library = text, library
        self.names, self.kept = list(captions), list(kept)
        self._said = [(i, caption) for i, own in enumerate(captions.values()) for caption in own]
        with torch.no_grad():
            self.aim, self.kept_aim = (
                torch.stack([F.normalize(self(own), dim=1).mean(0) for own in texts.values()])
                for texts in (captions, kept)
            )

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """End-of-text rows [n, d], with gradients where they are on."""
        hidden = self._text.read(list(prompts)).hidden
        return hidden[torch.arange(len(hidden)), [self._library.padding(prompt)[0] for prompt in prompts]]

    def forget(self) -> Tensor:
        """The loss whose gradient leads away from the names."""
        return forget_loss(self(self.names), self.aim)

    def retain(self) -> Tensor:
        """The loss of the kept texts."""
        return retain_loss(self(self.kept), self.kept_aim)

    @torch.no_grad()
    def cosines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of captions with what they were, of kept texts with theirs; how many kept texts are closer than a caption."""
        which, said = zip(*self._said, strict=True)
        own, others, aim = self(said), self(self.kept), self.aim[list(which)]
        near = F.cosine_similarity(own, aim)
        closer = F.normalize(others, dim=1) @ F.normalize(aim, dim=1).T > near
        return near, F.cosine_similarity(others, self.kept_aim), closer.sum(0)


def spared(forget: Factors, retain: Factors, ridge: float) -> Factors:
    """The step without what it would do to kept texts: ``down (I + K / r)^-1``, K the mean square of their rows [i, i].

    ``r`` = ``ridge`` times the mean of K's diagonal. Ours; the rank stays. 0 changes nothing.
    """
    if not ridge:
        return forget
    rows = retain.down.double()
    gram = rows.T @ rows / len(rows)
    scale = ridge * gram.diagonal().mean()
    inner = gram / scale + torch.eye(len(gram), dtype=gram.dtype)
    return Factors(torch.linalg.solve(inner, forget.down.double().T).T.float().contiguous(), forget.up)


def run(job: Job, callbacks: Callbacks) -> Erasure:
    """Both gradients, the choice, the search."""
    model = job.model
    captions = {phrase: [fill(t, phrase) for t in contexts(c.kind)] for c in job.concepts for phrase in c.phrases}
    bank = bank_prompts(job.concepts)
    kept = {text: [fill(t, text) for t in sentences("object")] for text in bank[:: max(1, len(bank) // KEPT)][:KEPT]}
    library = Library(
        model, [*captions, *kept, *(text for own in [*captions.values(), *kept.values()] for text in own)]
    )
    layers = text_layers_in(model.shapes(), "all", model.clip_skip)
    with model.open_text() as text:
        places = {layer: text.place(layer) for layer in layers}
        judge = Judge(text, library, captions, kept)
        with taped(places) as tape:
            forget, retain = tape.gradients(judge.forget()), tape.gradients(judge.retain())
        judged = [_judged(n, forget[n], retain.get(n), model.weights()) for n in layers if n in forget]
        roots = dict.fromkeys(one.layer.split(".")[0] for one in judged)
        picked = [n for root in roots for n in chosen([one for one in judged if one.layer.startswith(f"{root}.")])]
        factors = {n: spared(forget[n], retain[n], job.settings.spare) for n in picked}

        def cosines(size: float) -> tuple[Tensor, Tensor, Tensor]:
            adapter = step(factors, size)
            adapter.to(next(places[picked[0]].module.parameters()).device)
            with adapter.attached({n: places[n] for n in picked}), adapter.acting(True):
                return judge.cosines()

        size, share = searched(job, factors, cosines, callbacks)
        (near, others, _), (after, others_after, _) = judge.cosines(), cosines(size)
    measured = {
        "layers": picked,
        "front": [one.layer for one in front(judged)],
        "step": size,
        "share": share,
        "cosine_before": float(near.mean()),
        "cosine_after": float(after.mean()),
        "kept_cosine_change": float((others_after - others).mean()),
        "kept_cosine_worst": float((others_after - others).min()),
    }
    made = job.made(step(factors, size).deltas(), {"scope": picked[0].rpartition(".")[0], "steps": 1}, measured)
    return fitted(made, model)


def searched(
    job: Job, factors: Mapping[str, Factors], cosines: Callable[[float], tuple[Tensor, ...]], callbacks: Callbacks
) -> tuple[float, float]:
    """The shortest step found that forgets, and its share of the weights: doubled until it does, then bisected."""
    settings, weights = job.settings, job.model.weights()
    norms = [[float(weights[f"{name}.weight"].norm()), float(f.dense().norm())] for name, f in factors.items()]
    unit = float(torch.tensor(norms)[:, 0].norm() / torch.tensor(norms)[:, 1].norm())
    low, high, size = 0.0, 0.0, settings.first * unit
    for tried in range(1, settings.search + 1):
        near, others, closer = cosines(size)
        if callbacks.report is not None:
            cosine = float(near.mean())
            callbacks.report(Report(tried, settings.search, cosine, cosine, 0.0, None))
        if bool((closer >= min(settings.top, len(others))).all()):
            high = size
        else:
            low = size
        size = (low + high) / 2 if high else 2 * size
    if not high:
        raise IllConditioned(
            f"No step of {next(iter(factors))} up to {low / unit:.2g} of its weight makes the text encoder forget. "
            "Allow more steps (search), ask for less (top=1), or train another method."
        )
    return high * settings.strength, high * settings.strength / unit


def _judged(layer: str, forget: Factors, retain: Factors | None, weights: Mapping[str, Tensor]) -> Judged:
    own = forget.dense()
    other = torch.zeros_like(own) if retain is None else retain.dense()
    aligned = float(F.cosine_similarity(own.flatten(), other.flatten(), dim=0).abs())
    return Judged(layer, float(own.norm() / weights[f"{layer}.weight"].double().norm()), aligned)

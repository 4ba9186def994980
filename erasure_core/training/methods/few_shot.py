"""Few-shot erasing in the text encoder (arXiv 2405.07288): unlearn to describe a few pictures of the concept.

``max mean |eps(z_t, t, text(p)) - noise|^2`` over the MLPs of all layers and the last self-attention of the text
encoder; the denoiser stays. The objective has no maximum and preserves nothing. What keeps the rest is ours: texts of
the bank are held where they were, nothing is pushed further than it has to go, and a guard ends the training before
unrelated texts suffer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...options import choice, number
from ..draw import Draw, generator
from ..engine import Engine, Latents
from ..examples import Bank, bank_prompts
from ..loop import Enough, Trainer
from ..scopes import TEXT_SCOPES, explain_text_scopes, text_layers_in
from ..settings import Training
from ..surgery import Gradients
from ..terms import Term
from ..texts import Texts

if TYPE_CHECKING:
    from ...models import EditableModel
    from ..run import Job
    from ..trainable import TextNetwork

NAME = "few_shot"
SUMMARY = "Few-shot: the text encoder unlearns to describe four pictures of the concept; the denoiser stays as it is."
WHY = (
    "A quick method, and beside SLUG the only one that changes the text encoder: it acts on every "
    "prompt, without a gate, and on every model that shares the encoder. The pictures are drawn by the model itself. "
    "The paper preserves nothing (word_anchors=0, and guard=0 for no guard), and what it pushes away from has no end: "
    "on the bundled model stars went only after everything else. Held by texts of the bank (your preserved phrases, if "
    "you give any) it is among the best; it leads to no anchor, though: what comes is what the model draws without the "
    "word, on the bundled model often a circle. The guard ends the training at the step before unrelated texts would "
    "be less like themselves than it says. form=weights gives the published kind of change, here it is a LoRA."
)
UNRELATED = 16  # texts that the guard looks at


@dataclass(frozen=True)
class Settings(Training):
    """Few-shot erasing's numbers; its code makes ten steps of Adam at 1e-5 on whole weights."""

    steps: int = number(300, 1, 200_000, "updates, unless the guard ends them", whole=True)
    lr: float = number(1e-3, 1e-8, 1.0, "learning rate of Adam")
    word_anchors: int = number(8, 0, 64, "texts of the bank in each update that must stay", whole=True)
    anchor_weight: float = number(20.0, 0.0, 1e6, "how much the anchors count")
    schedule: str = choice("constant", ("constant", "cosine"), "the learning rate after warming up")
    scope: str = choice("mlp-last", TEXT_SCOPES, explain_text_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    grid: int = number(50, 2, 1000, "timesteps of a trajectory", whole=True)
    latents: str = choice("noised", ("noised",), "pictures of the frozen model with new noise")
    pool: int = number(4, 1, 4096, "how many pictures of the concept there are", whole=True)
    enough: float = number(
        1.5,
        0.0,
        1e6,
        "done with a picture where the concept's text describes it so many times worse than the anchor, or the empty "
        "text, does; 0: never, as published",
    )
    guard: float = number(0.9, 0.0, 1.0, "least mean cosine of unrelated texts with what they were; 0 for no guard")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack or self.worst or self.random_anchors:
            raise BadInput("Few-shot erasing trains the text encoder alone: it knows no attack and no random anchors.")


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """None: the loss is that of the denoiser's own training."""
    return []


class TextTrainer(Trainer):
    """Trains an adapter on the text encoder(s); the frozen denoiser judges."""

    text: TextNetwork
    unrelated: tuple[str, ...]
    before: Texts

    def guarded(self, text: TextNetwork, unrelated: Sequence[str]) -> None:
        """``unrelated``: prompts that must stay as they are now."""
        self.text, self.unrelated = text, tuple(unrelated)
        self.before = self._read(self.unrelated, on=False)

    def read(self, model: EditableModel, prompts: Sequence[str]) -> Texts:
        """Texts for a preview, by the trained encoder."""
        with self.engine.adapter.holding(self.result):
            return self._read(prompts, on=True)

    def update(self) -> tuple[float, float]:
        """One update; raises Enough if unrelated texts would no longer be what they were, and undoes it then."""
        values = {name: p.detach().clone() for name, p in self.parameters.items()}
        optimiser = copy.deepcopy(self.optimiser.state_dict())
        averages = {name: value.clone() for name, value in self.average.items()}
        losses = super().update()
        if self.settings.guard and self.closeness() < self.settings.guard:  # type: ignore[attr-defined]
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(values[name])
            self.optimiser.load_state_dict(optimiser)
            self.average = averages
            self.losses.pop()
            raise Enough
        return losses

    def closeness(self) -> float:
        """The mean cosine of an unrelated text's rows with what they were."""
        now = self._read(self.unrelated, on=True).hidden.flatten(1)
        return float(F.cosine_similarity(now, self.before.hidden.flatten(1)).mean())

    @torch.no_grad()
    def _read(self, prompts: Sequence[str], on: bool) -> Texts:
        with self.engine.adapter.acting(on):
            return self.text.read(list(prompts))

    def _gradients(self, draw: Draw) -> Gradients:
        engine, settings, surgery = self.engine, self.settings, self.settings.surgery
        latents, found = self.source(draw), Gradients()
        numbers = range(len(latents))
        aims = torch.stack([engine.grid.output_for(latents.x[i], latents.noise, latents.ks[i]) for i in numbers])
        most = self._enough(draw, latents, aims)
        with engine.adapter.acting(True), torch.enable_grad():
            for part in engine.parts([(i, "concept") for i in numbers]):
                draw.rows["concept"] = self.text.read([draw.example.texts["concept"]])
                which = [i for i, _ in part]
                errors = squares(engine.rows(latents, draw.rows, part), aims[which])
                loss = -torch.minimum(errors, most[which].to(errors)).sum() / len(latents)
                found.add(self.parameters, loss, torch.zeros_like(loss), apart=surgery, scale=self.scale)
            if settings.word_anchors and self.bank.prompts:
                kept = settings.anchor_weight * self._moved(draw)
                found.add(self.parameters, torch.zeros_like(kept), kept, apart=surgery, scale=self.scale)
        return found

    def _enough(self, draw: Draw, latents: Latents, aims: Tensor) -> Tensor:
        """For each latent, the error beyond which nothing pushes any more."""
        times: float = self.settings.enough  # type: ignore[attr-defined]
        if not times:
            return torch.full((len(latents),), math.inf)
        found = self.engine.fixed(latents, draw.rows, [(i, "anchor") for i in range(len(latents))], on=False)
        return times * squares(torch.stack(list(found.values())), aims)

    def _moved(self, draw: Draw) -> Tensor:
        """Mean square by which texts of the bank have moved, as a share of their own."""
        settings = self.settings
        (end,) = self.library.ends([draw.example.texts["concept"]])
        source = generator(settings.seed, draw.step, "candidates")
        prompts = self.bank.drawn(settings.word_anchors, end, settings.anchor_power, source)
        now, before = self.text.read(prompts), self._read(prompts, on=False)
        pairs = [(now.hidden, before.hidden)]
        if now.pooled is not None and before.pooled is not None:
            pairs.append((now.pooled, before.pooled))
        wide = [(new.float(), old.float()) for new, old in pairs]  # small squares vanish in half precision
        return torch.stack([F.mse_loss(new, old) / old.square().mean() for new, old in wide]).sum()


def squares(predicted: Tensor, aims: Tensor) -> Tensor:
    """Mean square difference of each [n, c, h, w] from its aim, [n]."""
    return (predicted.float() - aims.to(predicted.device).float()).square().flatten(1).mean(1)


@contextmanager
def opened(job: Job) -> Iterator[TextTrainer]:
    """The trainer, with text encoders and denoiser open."""
    settings, model = job.settings, job.model
    layers = text_layers_in(model.shapes(), settings.scope, model.clip_skip)
    prompts = bank_prompts(job.concepts)
    library, adapter = job.library(prompts), job.adapter(layers)
    with ExitStack() as stack:
        network = stack.enter_context(model.open_denoiser(job.saves_memory))
        text = stack.enter_context(model.open_text())
        adapter.to(next(text.place(layers[0]).module.parameters()).device)
        stack.enter_context(adapter.attached({layer: text.place(layer) for layer in layers}))
        engine = Engine(network, adapter, job.grid, settings.micro)
        trainer = TextTrainer(
            engine, job.module, settings, job.examples, library, Bank.of(library, prompts), job.latent_shape
        )
        trainer.guarded(text, prompts[:: max(1, len(prompts) // UNRELATED)][:UNRELATED])
        yield trainer

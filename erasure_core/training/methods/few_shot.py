"""Few-shot erasing in the text encoder (arXiv 2405.07288): unlearn to describe a few pictures of the concept.

``max mean |eps(z_t, t, text(p)) - noise|^2`` over the MLPs of all layers and the last self-attention of the text
encoder; the denoiser stays. The objective has no maximum, so a guard ends the training before unrelated texts suffer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ...errors import BadInput
from ...options import choice, number
from ..draw import Draw
from ..engine import Engine
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
    "Nothing is preserved but by the guard, which compares texts that do not name the concept with what they were and "
    "ends the training at the step before they would fall below it (preserved phrases, if you give any); 0.99 is safe "
    "and weak. On the bundled model it is the weakest method of all: half of the stars stay. "
    "form=weights gives the published kind of change, here it is a LoRA."
)
UNRELATED = 16  # texts that the guard looks at


@dataclass(frozen=True)
class Settings(Training):
    """Few-shot erasing's numbers; its code makes ten steps of Adam at 1e-5 on whole weights."""

    steps: int = number(200, 1, 200_000, "updates, unless the guard ends them", whole=True)
    lr: float = number(3e-3, 1e-8, 1.0, "learning rate of Adam")
    schedule: str = choice("constant", ("constant", "cosine"), "the learning rate after warming up")
    scope: str = choice("mlp-last", TEXT_SCOPES, explain_text_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    grid: int = number(50, 2, 1000, "timesteps of a trajectory", whole=True)
    latents: str = choice("noised", ("noised",), "pictures of the frozen model with new noise")
    pool: int = number(4, 1, 4096, "how many pictures of the concept there are", whole=True)
    guard: float = number(0.9, 0.0, 1.0, "least mean cosine of unrelated texts with what they were; 0 for no guard")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack or self.worst or self.surgery or self.word_anchors or self.random_anchors:
            raise BadInput("Few-shot erasing trains the text encoder alone: it knows no attack, surgery or anchors.")


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
        engine = self.engine
        latents, found = self.source(draw), Gradients()
        numbers = [(i, "concept") for i in range(len(latents))]
        with engine.adapter.acting(True), torch.enable_grad():
            for part in engine.parts(numbers):
                draw.rows["concept"] = self.text.read([draw.example.texts["concept"]])
                out = engine.rows(latents, draw.rows, part)
                aims = torch.stack(
                    [engine.grid.output_for(latents.x[i], latents.noise, latents.ks[i]) for i, _ in part]
                ).to(out)
                loss = -F.mse_loss(out, aims) * len(part) / len(latents)
                found.add(self.parameters, loss, torch.zeros_like(loss), apart=False, scale=self.scale)
        return found


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

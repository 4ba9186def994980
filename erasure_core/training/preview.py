"""Pictures while training: the concept and a text that must stay, as the trained model draws them now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..concepts import ConceptSet
from .draw import generator
from .loop import Trainer
from .texts import Library, stack
from .trainable import TrainableModel

GUIDANCE = 5.0


def preview_prompts(concepts: ConceptSet) -> tuple[str, str]:
    """The first concept, and a text that must stay: a preserved phrase, else the anchor, else nothing in particular."""
    first = concepts.concepts[0]
    return first.target, next(iter((*concepts.all_preserved, first.anchor)), "")


@torch.no_grad()
def previewed(model: TrainableModel, trainer: Trainer, concepts: ConceptSet, prompts: Sequence[str] = ()) -> Tensor:
    """Latents [n, c, h, w] on the processor: each prompt by the trained model, always from the same noise."""
    engine = trainer.engine
    asked = tuple(prompts) or preview_prompts(concepts)
    texts = Library(model, asked)
    rows = stack([texts[prompt] for prompt in (*asked, *([""] * len(asked)))])
    noise = torch.randn(trainer.source.shape, generator=generator(trainer.settings.seed, 0, "noise"))
    x = noise.expand(len(asked), -1, -1, -1)
    with engine.adapter.holding(trainer.result), engine.adapter.acting(True):
        for k in range(len(engine.grid)):
            out = engine.predict(torch.cat([x, x]), [k] * (2 * len(asked)), rows).cpu()
            plain = out[len(asked) :]
            x = engine.grid.step(x, plain + GUIDANCE * (out[: len(asked)] - plain), k)
    return x

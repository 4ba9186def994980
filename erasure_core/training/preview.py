"""Pictures while training: the concept and a text that must stay, as the trained model draws them now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..concepts import ConceptSet
from .draw import generator
from .engine import Engine
from .loop import Trainer
from .texts import Texts
from .trainable import TrainableModel

GUIDANCE = 5.0


def preview_prompts(concepts: ConceptSet) -> tuple[str, str]:
    """The first concept, and a text that must stay: a preserved phrase, else the anchor, else nothing in particular."""
    first = concepts.concepts[0]
    return first.target, next(iter((*concepts.all_preserved, first.anchor)), "")


def previewed(model: TrainableModel, trainer: Trainer, concepts: ConceptSet, prompts: Sequence[str] = ()) -> Tensor:
    """Latents [n, c, h, w] on the processor: each prompt by the trained model, always from the same noise."""
    engine = trainer.engine
    asked = tuple(prompts) or preview_prompts(concepts)
    with torch.no_grad(), engine.adapter.holding(trainer.result), engine.adapter.acting(True):
        rows = trainer.read(model, [*asked, *([""] * len(asked))])
        return sketched(engine, rows, trainer.source.shape, trainer.settings.seed)


@torch.no_grad()
def sketched(engine: Engine, rows: Texts, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Latents [n, c, h, w] on the processor by the network as it is. ``rows``: n texts, and as many empty ones."""
    count = len(rows) // 2
    x = torch.randn(shape, generator=generator(seed, 0, "noise")).expand(count, -1, -1, -1)
    for k in range(len(engine.grid)):
        out = engine.predict(torch.cat([x, x]), [k] * len(rows), rows).cpu()
        plain = out[count:]
        x = engine.grid.step(x, plain + GUIDANCE * (out[:count] - plain), k)
    return x

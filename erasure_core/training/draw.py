"""Everything random of one update, from generators of (seed, step, stream) and nothing else.

So an update can be made again in another process, and a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..checkpoint import bare_generator
from .examples import Bank, Example
from .settings import Training
from .texts import Library, Texts

STREAMS = ("start", "example", "moment", "noise", "anchors", "attack", "pictures", "candidates")


def generator(seed: int, step: int, stream: str) -> torch.Generator:
    """The source of one stream's numbers in one step."""
    return bare_generator(seed, step, STREAMS.index(stream))


@dataclass
class Draw:
    """One update: its example, the steps ``ks`` of the trajectory that latents are taken from, and texts by role.

    ``anchors``: for each latent, the roles of the texts that must stay.
    """

    step: int
    example: Example
    ks: tuple[int, ...]
    rows: dict[str, Texts] = field(default_factory=dict)
    anchors: list[list[str]] = field(default_factory=list)


def drawn(step: int, settings: Training, examples: Sequence[Example], library: Library, bank: Bank) -> Draw:
    """The draw of an update."""
    weights = torch.tensor([example.weight for example in examples]).double()
    number = torch.multinomial(weights, 1, generator=generator(settings.seed, step, "example"))
    example = examples[int(number)]
    draw = Draw(step, example, moments(settings.grid, settings.draws, generator(settings.seed, step, "moment")))
    draw.rows = {"empty": library[""], **{role: library[text] for role, text in example.texts.items()}}
    source = generator(settings.seed, step, "anchors")
    (end,) = library.ends([example.texts["concept"]])
    for latent in range(len(draw.ks)):
        own: list[str] = []
        for i in range(settings.random_anchors):
            own.append(f"random {latent}.{i}")
            draw.rows[own[-1]] = random_text(draw.rows["concept"], source)
        for i, prompt in enumerate(bank.drawn(settings.word_anchors or 0, end, settings.anchor_power, source)):
            own.append(f"word {latent}.{i}")
            draw.rows[own[-1]] = library[prompt]
        draw.anchors.append(own)
    return draw


def moments(grid: int, draws: int, source: torch.Generator) -> tuple[int, ...]:
    """One step from each of ``draws`` equal parts of the trajectory; each step as likely as any other."""
    edges = [round(i * grid / draws) for i in range(draws + 1)]
    return tuple(int(torch.randint(low, high, (), generator=source)) for low, high in pairwise(edges))


def random_text(like: Texts, source: torch.Generator) -> Texts:
    """SPM's latent anchor (arXiv 2312.16145): a random direction, 0.8 to 1.2 times as long as the text it is like.

    Of the rows together and, for SDXL, of the pooled vector; it is taken with a chance of 1 - cosine, else drawn again.
    """
    while True:
        hidden, cosine = _direction(like.hidden, source)
        if float(torch.rand((), generator=source)) < 1 - cosine:
            break
    return Texts(hidden, None if like.pooled is None else _direction(like.pooled, source)[0])


def _direction(like: Tensor, source: torch.Generator) -> tuple[Tensor, float]:
    noise = torch.randn(like.shape, generator=source)
    length = float(like.norm()) * float(0.8 + 0.4 * torch.rand((), generator=source))
    found = noise / noise.norm() * length
    return found.to(like), float((found * like).sum() / (found.norm() * like.norm()))

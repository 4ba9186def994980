"""Training of the text encoder as a reader of captions: what is said, read from the end mark and from each word.

Afterwards it is frozen. It is a classifier of captions, not a contrastive model: words outside the captions are noise.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .captions import Caption, Grammar, caption
from .dataset import CaptionTokens, Supply
from .loop import Plan, Progress, Trainer
from .parallel import part
from .world import ATTRIBUTES, PALETTE, SHAPES, STYLES

CAPTIONS = 31
CONCEPTS: tuple[str, ...] = (*SHAPES, *PALETTE, *STYLES)
"""What a word can mean; a colour means the same on a shape and on a background."""


class Reader(nn.Module):
    """The text encoder with the heads that it is trained through; the heads are thrown away afterwards."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(labels) + 1) for name, labels in ATTRIBUTES.items()})
        self.word = nn.Linear(width, len(CONCEPTS))

    def rows(self, ids: Tensor) -> Tensor:
        """Text rows [B, tokens, 64] as the denoiser sees them."""
        return self.encoder(input_ids=ids).last_hidden_state

    def attributes(self, rows: Tensor, ends: Tensor) -> dict[str, Tensor]:
        """Logits per attribute [B, classes + 1] from the first end mark; the last class is "not said"."""
        at_end = rows[torch.arange(len(rows)), ends.to(rows.device)]
        return {name: head(at_end) for name, head in self.heads.items()}


def said(captions: list[Caption]) -> dict[str, Tensor]:
    """Class numbers per attribute [B]; the last class is "not said"."""
    return {
        name: torch.tensor([labels.index(c.labels[name]) if c.labels[name] else len(labels) for c in captions])
        for name, labels in ATTRIBUTES.items()
    }


def reading_loss(reader: Reader, rows: Tensor, ends: Tensor, captions: list[Caption], tokens: CaptionTokens) -> Tensor:
    """Cross-entropy of the four attributes plus that of every attribute word's own meaning."""
    targets = said(captions)
    logits = reader.attributes(rows, ends)
    loss = torch.stack([F.cross_entropy(logits[name], targets[name].to(rows.device)) for name in logits]).sum()
    words = [
        (row, position, CONCEPTS.index(c.labels[name]))
        for row, c in enumerate(captions)
        for name, position in tokens.last_pieces(c).items()
    ]
    if not words:
        return loss
    row, position, concept = torch.tensor(words).T
    return loss + F.cross_entropy(reader.word(rows[row, position]), concept.to(rows.device))


def train_text_encoder(
    encoder: Any,
    tokens: CaptionTokens,
    supply: Supply,
    grammar: Grammar,
    plan: Plan,
    batch: int,
    checkpoint: Path,
    keep: float = 0.0,
    progress: Progress | None = None,
) -> tuple[Reader, list[float]]:
    """Train ``encoder`` in place, or go on from ``checkpoint``; returns it inside its reader, with all losses.

    ``keep`` > 0: weight of staying close to the encoder given, row by row, on half of each batch, whose captions are
    free of misspellings and implicit wording. So a denoiser that was trained on the old rows stays usable.
    """
    torch.manual_seed(plan.seed)
    device = next(encoder.parameters()).device
    old = copy.deepcopy(encoder).eval().requires_grad_(False) if keep else None
    reader = Reader(encoder).to(device).train()
    trainer = Trainer(reader, plan, checkpoint)
    plain, batch = Grammar(), part(batch)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step, CAPTIONS])
        scenes = [supply[step * batch + i] for i in range(batch)]
        captions = [caption(s, rng, plain if keep and i % 2 else grammar) for i, s in enumerate(scenes)]
        ids, ends = tokens([c.text for c in captions])
        ids = ids.to(device) if old is not None else ids[:, : int(ends.max()) + 1].to(device)
        rows = reader.rows(ids)
        loss = reading_loss(reader, rows, ends, captions, tokens)
        if old is not None:
            with torch.no_grad():
                before = old(input_ids=ids[1::2]).last_hidden_state
            loss = loss + keep * F.mse_loss(rows[1::2], before)
        return loss

    losses = trainer.run(loss_of, progress)
    return reader.eval().requires_grad_(False), losses


@torch.no_grad()
def reading_accuracy(
    reader: Reader, tokens: CaptionTokens, captions: list[Caption], batch: int = 256
) -> dict[str, float]:
    """Share of captions whose attribute (or its absence) is read rightly, 0..1."""
    device = next(reader.parameters()).device
    right = dict.fromkeys(ATTRIBUTES, 0)
    for start in range(0, len(captions), batch):
        some = captions[start : start + batch]
        ids, ends = tokens([c.text for c in some])
        logits = reader.attributes(reader.rows(ids.to(device)), ends)
        for name, target in said(some).items():
            right[name] += int((logits[name].argmax(1).cpu() == target).sum())
    return {name: count / len(captions) for name, count in right.items()}

"""Training data of the demo model: an endless, numbered supply of scenes, with caption tokens and cached latents.

Scene ``i`` of a seed is always the same, so nothing but latents has to be stored, and a run can go on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import read_state, write_state
from .architecture import TOKENS
from .captions import Caption
from .loop import Progress
from .world import COLOURED_BACKGROUNDS, STYLE_SHARES, Scene, random_scene, render

SHARD = 500
TRAINING, HELD_OUT = 11, 12
"""Streams of scenes; the second is for measuring only."""


@dataclass(frozen=True)
class Supply:
    """Scenes numbered from 0: the same number, the same scene."""

    seed: int = 0
    stream: int = TRAINING
    coloured: float = COLOURED_BACKGROUNDS
    style_shares: tuple[float, ...] = STYLE_SHARES

    def __getitem__(self, index: int) -> Scene:
        rng = np.random.default_rng([self.seed, self.stream, index])
        return random_scene(rng, self.coloured, self.style_shares)


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """Drawings [n, 3, 64, 64], float32 in -1..1 as the autoencoder takes them."""
    drawn = np.stack([render(scene) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass
class CaptionTokens:
    """Turns captions into token ids, remembering the pieces of every word: CLIP's pieces never cross a blank."""

    tokenizer: Any
    pieces: dict[str, list[int]] = field(default_factory=dict)

    def words(self, text: str) -> list[int]:
        """Ids of a text without the marks for start and end."""
        ids: list[int] = []
        for word in text.replace(",", " ,").split():
            if word not in self.pieces:
                self.pieces[word] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
            ids += self.pieces[word]
        return ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [n, 77], padded with the end mark, and the position of the first end mark [n]."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = torch.full((len(texts), TOKENS), end, dtype=torch.long)
        ids[:, 0] = start
        ends = []
        for row, text in enumerate(texts):
            found = self.words(text)[: TOKENS - 2]
            ids[row, 1 : len(found) + 1] = torch.tensor(found, dtype=torch.long)
            ends.append(len(found) + 1)
        return ids, torch.tensor(ends)

    def last_pieces(self, caption: Caption) -> dict[str, int]:
        """Attribute -> position of the last piece of its words, for the attributes that the caption names."""
        return {name: len(self.words(caption.text[:end])) for name, end in caption.ends.items()}


@torch.no_grad()
def cached_latents(
    autoencoder: Any, supply: Supply, count: int, folder: Path, tag: str, progress: Progress | None = None
) -> Tensor:
    """Means of the posterior [count, 8, 8, 8], unscaled, of the supply's first scenes.

    Kept in ``folder`` in pieces of 500, each written once it is whole; pieces made under another ``tag`` are remade.
    Fresh and stored pieces are alike to the last bit, memory layout included, which decides how convolutions round.
    """
    device = next(autoencoder.parameters()).device
    parts: list[Tensor] = []
    for start in range(0, count, SHARD):
        stop = min(start + SHARD, count)
        path = folder / f"latents-{start:06d}.safetensors"
        state = read_state(path)
        if state is None or state[1] != {"tag": tag, "stop": stop}:
            scenes = [supply[i] for i in range(start, stop)]
            means = [
                autoencoder.encode(pictures(scenes[i : i + 50]).to(device)).latent_dist.mean.cpu().contiguous()
                for i in range(0, len(scenes), 50)
            ]
            state = ({"latents": torch.cat(means)}, {"tag": tag, "stop": stop})
            write_state(path, *state)
        parts.append(state[0]["latents"])
        if progress is not None:
            progress(stop, count, 0.0)
    return torch.cat(parts)

"""Texts as training handles them: rows for the denoiser that can be stacked, picked and disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import EditableModel, Encoded


@dataclass(frozen=True)
class Texts:
    """A batch of texts: ``hidden`` [B, 77k, d] and, for SDXL, ``pooled`` [B, p]."""

    hidden: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def take(self, index: Sequence[int]) -> Texts:
        """The texts at ``index``, in that order."""
        rows = list(index)
        return Texts(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> Texts:
        """On another device and in another precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Texts(self.hidden.to(device, dtype), pooled)


def stack(texts: Sequence[Texts]) -> Texts:
    """Several batches as one; they have rows alike."""
    pooled = [t.pooled for t in texts if t.pooled is not None]
    return Texts(torch.cat([t.hidden for t in texts]), torch.cat(pooled) if pooled else None)


class Library:
    """Every text of a run, encoded once and together, so that all have rows alike; looked up by its words."""

    def __init__(self, model: EditableModel, prompts: Sequence[str]) -> None:
        self.prompts = tuple(dict.fromkeys(["", *prompts]))
        self._place = {prompt: i for i, prompt in enumerate(self.prompts)}
        encoded = model.encode(self.prompts)
        self._texts = Texts(encoded.hidden.float().cpu(), None if encoded.pooled is None else encoded.pooled.float())
        self._ends = _ends(encoded)

    def __getitem__(self, prompt: str) -> Texts:
        """One text, B = 1, in float32 on the processor."""
        return self._texts.take([self._place[prompt]])

    def ends(self, prompts: Sequence[str]) -> Tensor:
        """[n, d]: the end-of-text row of each prompt's first chunk, which stands for the whole of it."""
        return self._ends[[self._place[prompt] for prompt in prompts]]


def _ends(encoded: Encoded) -> Tensor:
    positions = encoded.eos[:, 0]
    return encoded.hidden[torch.arange(len(positions)), positions].float().cpu()

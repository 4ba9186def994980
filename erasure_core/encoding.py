"""From prompts to the rows of a text encoder: chunks, weights, batching, and a cache of chunks already encoded."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import BadInput
from .prompts import CHUNK, Chunks, chunk, parse_weights

BATCH = 64


@dataclass
class TextEncoder:
    """One text encoder as the core needs it.

    ``tokenize``: text -> ids without specials. ``run``: ids [B, 77] -> rows [B, 77, d] and pooled [B, p] or None.
    ``fingerprint``: hash of the weights as they are now; with ``clip_skip`` and the ids it is the cache's key.
    """

    name: str
    tokenize: Callable[[str], list[int]]
    bos: int
    eos: int
    pad: int
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    fingerprint: Callable[[], str]
    clip_skip: int = 1
    limit: int = 2048  # chunks kept; 77 x 768 fp32 rows are 0.24 MB each, SDXL's two encoders need 0.63 MB
    _cache: OrderedDict[tuple[str, int, tuple[int, ...]], tuple[Tensor, Tensor | None]] = field(
        default_factory=OrderedDict, repr=False
    )

    def chunks(self, prompt: str) -> Chunks:
        """Tokenise one prompt with its weights."""
        if not isinstance(prompt, str):
            raise BadInput(f"A prompt must be text, not {type(prompt).__name__}.")
        spans = parse_weights(prompt)
        if not all(math.isfinite(span.weight) for span in spans):
            raise BadInput(f"A weight in the prompt '{prompt[:40]}' is no finite number. Write one like (word:1.2).")
        return chunk(spans, self.tokenize, self.bos, self.eos, self.pad)

    def rows(self, chunks: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, Tensor | None]]:
        """Rows [77, d] and pooled [p] of each chunk; every distinct chunk is encoded once."""
        stamp = self.fingerprint()
        keys = [(stamp, self.clip_skip, ids) for ids in chunks]
        missing = [key for key in dict.fromkeys(keys) if key not in self._cache]
        fresh = {}
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            hidden, pooled = self.run(torch.tensor([ids for _, _, ids in part], dtype=torch.long))
            for i, key in enumerate(part):
                fresh[key] = (hidden[i].clone(), None if pooled is None else pooled[i].clone())
        found = [fresh.get(key) or self._cache[key] for key in keys]
        self._remember(keys, found)
        return found

    def _remember(
        self, keys: list[tuple[str, int, tuple[int, ...]]], values: list[tuple[Tensor, Tensor | None]]
    ) -> None:
        for key, value in zip(keys, values, strict=True):
            self._cache[key] = value
            self._cache.move_to_end(key)
        while len(self._cache) > self.limit:
            self._cache.popitem(last=False)


@dataclass(frozen=True)
class EncodedText:
    """Prompts through one encoder.

    ``hidden`` [B, 77k, d], ``ids`` [B, k, 77], ``eos`` [B, k], ``pooled`` [B, p] or None, ``chunks`` [B]: how many of
    the k chunks are the prompt's own; shorter prompts are repeated to the common length, which attention cannot see.
    """

    hidden: Tensor
    ids: Tensor
    eos: Tensor
    pooled: Tensor | None
    chunks: Tensor


def encode_text(encoder: TextEncoder, prompts: Sequence[str]) -> EncodedText:
    """Encode prompts; a weight w moves a row to ``w * row + (1 - w) * row of the empty prompt``."""
    if not prompts:
        raise BadInput("There is no prompt to encode.")
    parts = [encoder.chunks(prompt) for prompt in prompts]
    empty = encoder.chunks("")
    weighted = any(weight != 1.0 for part in parts for row in part.weights for weight in row)
    wanted = [ids for part in parts for ids in part.ids] + list(empty.ids if weighted else ())
    rows = iter(encoder.rows(wanted))
    taken = [[next(rows) for _ in part.ids] for part in parts]
    ground = next(rows)[0] if weighted else None
    longest = math.lcm(*(len(part.ids) for part in parts))
    hidden = [
        torch.cat([_weigh(row, weights, ground) for (row, _), weights in zip(own, part.weights, strict=True)])
        for own, part in zip(taken, parts, strict=True)
    ]
    pooled = [own[0][1] for own in taken]
    return EncodedText(
        torch.stack([rows.repeat(longest * CHUNK // len(rows), 1) for rows in hidden]),
        torch.stack([torch.tensor(part.ids).repeat(longest // len(part.ids), 1) for part in parts]),
        torch.stack([torch.tensor(part.eos).repeat(longest // len(part.eos)) for part in parts]),
        torch.stack([p for p in pooled if p is not None]) if pooled[0] is not None else None,
        torch.tensor([len(part.ids) for part in parts]),
    )


def _weigh(rows: Tensor, weights: tuple[float, ...], ground: Tensor | None) -> Tensor:
    if ground is None or all(weight == 1.0 for weight in weights):
        return rows
    w = rows.new_tensor(weights).unsqueeze(1)
    return torch.where(w == 1.0, rows, (rows - ground) * w + ground)

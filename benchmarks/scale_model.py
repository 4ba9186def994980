"""A model of real shapes without real weights: for measuring what does not depend on what the numbers mean.

Names and shapes of all cross-attention matrices of SD1.5 (32, d = 768) or SDXL (140, d = 2048, and the one that reads
the pooled vector), filled with random numbers. Text goes through the real tokenizer and the core's own chunks; instead
of a transformer, a row is its token's random vector plus the mean of all tokens up to it, its position and what all
rows share, scaled to the norm that a final layer norm gives (28 for 768 numbers). So rows are causal as CLIP's are: the
same words at the start of two prompts give the same rows, padding rows are much alike, no two of them equal.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from erasure_core.demo.bundle import WEIGHTS
from erasure_core.encoding import TextEncoder, encode_text
from erasure_core.erasure import POOLED_WEIGHT
from erasure_core.errors import BadInput
from erasure_core.keys.families import FAMILIES
from erasure_core.models import Encoded
from erasure_core.prompts import CHUNK

SHAPES = {"SD1.5": "sd1", "SDXL": "sdxl"}
_TABLE = 4096  # random vectors; a token is the sum of two of them
_BOS, _EOS = 49406, 49407


class StandIn:
    """An ``EditableModel`` of the family ``sd1`` or ``sdxl``; ``seconds`` counts the processor time of its encoding."""

    clip_skip = 1
    neutrals: Mapping[str, str] = {}

    def __init__(self, family: str) -> None:
        from transformers import CLIPTokenizer

        self.family, self.seconds = family, 0.0
        self._layout = FAMILIES[family]
        tokenizer = CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))
        known: dict[str, list[int]] = {}

        def tokenize(text: str) -> list[int]:
            if text not in known:
                known[text] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return known[text]

        self._encoders = [
            TextEncoder(
                layout.root, tokenize, _BOS, _EOS, 0 if number else _EOS, _Rows(layout.width, number), str, limit=0
            )
            for number, layout in enumerate(self._layout.text)
        ]
        self._weights = _weights(self._layout.shapes())

    @property
    def spaces(self) -> Mapping[str, int]:
        """Text spaces by name and width."""
        widths = (self._layout.context, self._layout.text[-1].projection)
        return {space: int(width or 0) for space, width in zip(self._layout.spaces, widths, strict=False)}

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Encode prompts."""
        start = time.process_time()
        parts = [encode_text(encoder, prompts) for encoder in self._encoders]
        hidden = parts[0].hidden if len(parts) == 1 else torch.cat([part.hidden for part in parts], dim=-1)
        pooled = None if len(parts) == 1 else parts[1].pooled
        ids = {encoder.name: part.ids for encoder, part in zip(self._encoders, parts, strict=True)}
        made = Encoded(hidden, ids, parts[0].eos, pooled, {"chunks": parts[0].chunks})
        self.seconds += time.process_time() - start
        return made

    def weights(self) -> Mapping[str, Tensor]:
        """Random matrices under their canonical names."""
        return self._weights

    def patch(self, actions: object, deltas: object, rows: str = "cond") -> None:
        """There is no denoiser to patch."""
        raise BadInput("This model only times solvers: it has no denoiser to patch.")


class _Rows:
    """Ids [B, 77] -> rows [B, 77, width] and pooled [B, width]."""

    def __init__(self, width: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._table, self._places = (torch.randn(n, width, generator=generator) for n in (_TABLE, CHUNK))
        self._shared = torch.randn(width, generator=generator)
        self._counts = torch.arange(1, CHUNK + 1)[:, None]

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self._table[ids % _TABLE] + self._table[(ids * 31 + 7) % _TABLE]
        rows = words.cumsum(1).div_(self._counts).mul_(3).add_(words).add_(self._places).add_(2 * self._shared)
        rows = torch.nn.functional.layer_norm(rows, rows.shape[-1:])
        ends = (ids == _EOS).int().argmax(1)
        return rows, rows[torch.arange(len(ids)), ends]


def _weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    names = [n for n in shapes if n.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) or n == POOLED_WEIGHT]
    return {n: torch.randn(*shapes[n], generator=generator).div_(shapes[n][1] ** 0.5) for n in names}

"""Prompts as Flux reads them: rows of T5, of any length, beside the words in CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.errors import WrongFamily
from ..erasure_core.gates import content_ids
from ..erasure_core.models import Encoded
from . import host
from .stamp import END, token_ids

ROWS, WORDS = "t5xxl", "l"  # the host's names of the two encoders of Flux
STOP = 1  # T5's end-of-text token
_BATCH = 8  # prompts encoded in one go; T5 is large


class T5Texts:
    """Texts through the CLIP of a Flux graph, each distinct one once. ``width``: of the rows that the model reads.

    Raises WrongFamily if the CLIP is another model's.
    """

    def __init__(self, clip: Any, width: int, node_id: str | None) -> None:
        self._clip, self._width, self._node_id = clip, width, node_id
        self._known: dict[str, tuple[Tensor, list[int], tuple[int, ...]]] = {}

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Rows [B, n, d] with n of the longest prompt; what is beyond a prompt's own rows is zero."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        advance = host.progress(len(missing), self._node_id) if missing else None
        for start in range(0, len(missing), _BATCH):
            host.stop_if_asked()
            part = missing[start : start + _BATCH]
            self._known.update(zip(part, self._several([self._tokens(prompt) for prompt in part]), strict=True))
            if advance is not None:
                advance(start + len(part))
        found = [self._known[prompt] for prompt in prompts]
        lengths = torch.tensor([len(ids) for _, ids, _ in found])
        hidden = torch.zeros(len(found), int(lengths.max()), self._width)
        tokens = torch.zeros(*hidden.shape[:2], dtype=torch.long)
        for i, (rows, ids, _) in enumerate(found):
            hidden[i, : len(ids)], tokens[i, : len(ids)] = rows, torch.tensor(ids)
        ends = torch.tensor([[ids.index(STOP) if STOP in ids else len(ids) - 1] for _, ids, _ in found])
        extras = {"chunks": torch.ones(len(found), dtype=torch.long), "rows": lengths}
        return Encoded(
            hidden, {"t5": tokens[:, None]}, ends, None, extras, lead=0, words=tuple(words for _, _, words in found)
        )

    def _tokens(self, prompt: str) -> dict[str, list[list[tuple[Any, ...]]]]:
        tokens = host.tokenize(self._clip, prompt)
        if not {ROWS, WORDS} <= tokens.keys():
            raise WrongFamily(
                "This text encoder is not Flux's, which has T5 and CLIP-L. Load both with DualCLIPLoader (type flux)."
            )
        return tokens

    def _several(self, tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Tensor, list[int], tuple[int, ...]]]:
        """Rows, ids and words of each prompt; those of equal length, which are most, in one call of the host."""
        chunks = [[entry for chunk in own[ROWS] for entry in chunk] for own in tokens]
        alike = len({len(chunk) for chunk in chunks}) == 1
        for group, own in [(chunks, tokens)] if alike else [([c], [o]) for c, o in zip(chunks, tokens, strict=True)]:
            rows, _ = host.encode(self._clip, {**own[0], ROWS: group})
            rows = rows.detach().float().cpu().clone()
            if rows.shape[1:] != (sum(map(len, group)), self._width):
                raise WrongFamily(
                    f"This text encoder gives {rows.shape[1]} vectors of width {rows.shape[2]} for "
                    f"{sum(map(len, group))} tokens, this model reads vectors of width {self._width}. Connect the T5 "
                    "encoder that belongs to the model."
                )
            for one, chunk, its in zip(rows[0].split([len(c) for c in group]), group, own, strict=True):
                yield one, token_ids(chunk), content_ids([token_ids(words) for words in its[WORDS]], END)

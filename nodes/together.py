"""Several prompts as the chunks of one: each chunk is encoded by itself, so one call serves many prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..erasure_core.errors import WrongFamily
from ..erasure_core.prompts import CHUNK
from . import host


def encoders(tokens: Mapping[str, Any]) -> list[str]:
    """The host's keys of the encoders, CLIP-L first, as the rows are joined."""
    return sorted(tokens, key=lambda key: list(host.ENCODERS).index(key) if key in host.ENCODERS else 9)


def encode_together(
    clip: Any, tokens: Sequence[Mapping[str, Any]], width: int
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Rows [1, 77k, width] of each prompt, float32 on the processor, and the pooled vector [1, p] of the first one.

    Raises WrongFamily where the text encoder gives others than the denoiser reads.
    """
    joined = {key: [chunk for own in tokens for chunk in own[key]] for key in tokens[0]}
    hidden, pooled = host.encode(clip, joined)
    counts = [len(own[encoders(own)[0]]) * CHUNK for own in tokens]
    if hidden.shape[1] != sum(counts):
        raise WrongFamily(
            f"This text encoder gives {hidden.shape[1]} rows for {sum(counts)} tokens, so its rows cannot be told "
            "apart. Membrane works with the CLIP encoders of Stable Diffusion 1, 2 and XL."
        )
    if hidden.shape[2] != width:
        raise WrongFamily(
            f"This text encoder gives vectors of width {hidden.shape[2]}, this model reads {width}. "
            "Connect MODEL and CLIP of the same checkpoint."
        )
    return hidden.float().cpu().split(counts, dim=1), None if pooled is None else pooled.float().cpu()

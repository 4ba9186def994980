"""Which rows of a text a method may change: its words, the end token, the padding after it; never the start token."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import BadInput
from ...models import Encoded
from ...prompts import CHUNK

PLACES = ("words", "end", "padding")
SELECTIONS = ("words", "words+end", "all")
"""What an option ``rows`` may say; "all" is all of :data:`PLACES`. CLIP keeps much of a prompt in end and padding."""


def chosen(selection: str) -> tuple[str, ...]:
    """The places that a selection stands for."""
    return PLACES if selection == "all" else tuple(selection.split("+"))


def places(encoded: Encoded) -> dict[str, Tensor]:
    """Place -> [B, T] true where a row is of it. Raises BadInput for a text whose tokens are not known."""
    count, length = encoded.hidden.shape[:2]
    if encoded.eos.numel() * CHUNK != count * length:
        raise BadInput("The tokens of this text are not known, so its words cannot be told from its padding.")
    within = torch.arange(length) % CHUNK
    ends = encoded.eos.cpu().repeat_interleave(CHUNK, dim=1)
    return {"words": (within > 0) & (within < ends), "end": within == ends, "padding": within > ends}

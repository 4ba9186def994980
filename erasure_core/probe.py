"""A fingerprint of a text encoder that survives a change of precision: eight prompts, sixteen projections."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .embeddings import Text, encode_texts
from .erasure import POOLED_SPACE
from .errors import WrongBase
from .models import EditableModel

PROMPTS = (
    "a photo of a cat",
    "a red circle",
    "portrait of an old man, oil painting",
    "mountains at sunset",
    "a city street in the rain",
    "an abstract blue pattern",
    "two dogs playing in the snow",
    "a glass of water on a table",
)
PROJECTIONS = 16
SAME, CLOSE = 1e-2, 0.2


def probe(model: EditableModel) -> dict[str, str]:
    """Text space -> base64 of float16 [8, 16]: mean content row of each prompt, projected in 16 fixed directions."""
    texts = encode_texts(model, PROMPTS)
    result = {}
    for space, width in model.spaces.items():
        rows = torch.stack([_summary(texts[prompt], space) for prompt in PROMPTS]).double()
        directions = np.random.default_rng(width).standard_normal((width, PROJECTIONS)) / np.sqrt(width)
        result[space] = base64.b64encode((rows.numpy() @ directions).astype("<f2").tobytes()).decode()
    return result


def probe_distance(one: str, other: str) -> float:
    """Relative distance of two probes: up to 1e-2 the same encoder, up to 0.2 a close one."""
    a, b = (np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float64) for text in (one, other))
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12))


def check_encoder(made_on: Mapping[str, str], model: EditableModel) -> str:
    """Empty for the same encoder, a sentence of warning for a close one; raises WrongBase beyond that."""
    current = probe(model)
    distance = max((probe_distance(made_on[space], current[space]) for space in made_on if space in current), default=0)
    if distance <= SAME:
        return ""
    if distance <= CLOSE:
        return (
            f"The text encoder differs a little from the one this erasure was made with (distance {distance:.2f}). "
            "Erase again with this model for the best result."
        )
    raise WrongBase(
        f"This erasure was made with another text encoder or clip-skip (distance {distance:.2f}). "
        "Erase again with this model; the recipe in the file says how."
    )


def _summary(text: Text, space: str) -> Tensor:
    if space == POOLED_SPACE and text.pooled is not None:
        return text.pooled
    return text.said.mean(0)

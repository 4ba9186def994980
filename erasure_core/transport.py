"""Facilitated transport exactly as published with SPM (arXiv 2312.16145), for comparison and for its files.

``gamma = max(s_cf, s_ct)``: the cosine of the flattened last hidden states of prompt and concept, start token and
padding included, not clipped; and the share of the concept's tokens that the prompt has, each counted once, in any
order. It is not calibrated: a text that has nothing to do with the concept reaches 0.5 to 0.9.

Nothing is published for what follows; here a long prompt is compared chunk by chunk, the best counts, and its tokens
are those of all chunks; SDXL's rows are those of both encoders; a text without known tokens has its cosine only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .errors import BadInput
from .models import EditableModel, Encoded
from .prompts import CHUNK, escape
from .reading import Activation, PromptRow, words_of

METRICS = ("clipcos_tokenuni", "clipcos", "tokenuni", "allone")


@dataclass(frozen=True)
class Carrier:
    """One concept: its ``rows`` [T, d] and the ``tokens`` of its text without specials."""

    rows: Tensor
    tokens: frozenset[int]


@dataclass(frozen=True)
class Transport:
    """The gate for concepts of which the one that is most alike counts.

    ``metric``: "clipcos" the cosine, "tokenuni" the share of tokens, "clipcos_tokenuni" the larger of both (the
    published default), "allone" always 1. ``factor``: the published ``facilitate_factor``, 2 for art styles; gains are
    multiplied by it and not clipped, and a cosine alone may be negative.
    """

    carriers: tuple[Carrier, ...]
    metric: str = METRICS[0]
    factor: float = 1.0

    def __call__(self, prompt: PromptRow) -> Activation:
        """``factor * gamma`` of a prompt."""
        if self.metric == "allone":
            return Activation(self.factor, "constant")
        mode = "approximate" if prompt.ids is None else "exact"
        return Activation(self.factor * max(self._of(carrier, prompt) for carrier in self.carriers), mode)

    def _of(self, carrier: Carrier, prompt: PromptRow) -> float:
        found = []
        if self.metric != "tokenuni" or prompt.ids is None:
            found.append(flat_cosine(prompt.rows, carrier.rows))
        if self.metric != "clipcos" and prompt.ids is not None:
            found.append(len(carrier.tokens.intersection(prompt.ids)) / len(carrier.tokens))
        return max(found)


def make_transport(
    phrases: Sequence[str], model: EditableModel, metric: str = METRICS[0], factor: float = 1.0
) -> Transport:
    """The published gate for concepts named by ``phrases``.

    Raises BadInput for an unknown metric, no concept at all, or one of no token.
    """
    if metric not in METRICS:
        raise BadInput(f"A metric of the gate 'transport' is one of {', '.join(METRICS)}, not {metric!r}.")
    if not phrases:
        raise BadInput("The gate 'transport' compares prompts with a concept. Name at least one.")
    return Transport(_carriers(phrases, model.encode([escape(phrase) for phrase in phrases])), metric, factor)


def _carriers(phrases: Sequence[str], encoded: Encoded) -> tuple[Carrier, ...]:
    made = []
    for i, (phrase, ids) in enumerate(zip(phrases, words_of(encoded), strict=True)):
        if not ids:
            raise BadInput(f"The concept {phrase!r} has no token, so no prompt can be like it. Write a word.")
        own = CHUNK * int(encoded.extras["chunks"][i]) if "chunks" in encoded.extras else encoded.hidden.shape[1]
        made.append(Carrier(encoded.hidden[i, :own].detach().to("cpu", torch.float64).clone(), frozenset(ids)))
    return tuple(made)


def flat_cosine(rows: Tensor, concept: Tensor) -> float:
    """Largest cosine of the flattened ``concept`` [T, d] and any T rows in turn of a text [k T, d].

    A rest shorter than T counts as if filled with zeros.
    """
    pieces = rows.detach().to(concept.device, concept.dtype).split(len(concept))
    filled = [torch.cat([piece, piece.new_zeros(len(concept) - len(piece), piece.shape[1])]) for piece in pieces]
    flat = torch.stack(filled).flatten(1)
    return float(cosine_similarity(flat, concept.flatten()[None], dim=1).max())

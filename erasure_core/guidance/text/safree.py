"""SAFREE (arXiv 2410.12761, ICLR 2025): words whose absence takes a prompt away from the concept leave its subspace.

``C`` [D, K] are the end-of-text vectors of the concept's phrases, ``P_C`` the projector on their span. Each word i of a
prompt is blanked in turn (token id 0), which gives the vectors ``p_i``, their distances ``d_i = |(I - P_C) p_i|`` from
the concept, and ``P_I``, the projector on their span. A word is a trigger if ``d_i > (1 + alpha) mean of the others``;
its row becomes ``(I - P_C) P_I e_i``. The self-validating filter keeps this for the first ``gamma sigmoid(2 k (10 beta
- t0))`` of the run, ``beta`` = 1 - mean cosine between the rows before and after; the original text is used from there.

Projectors come from a singular value decomposition, so that phrases alike do no harm. The paper's third part, a branch
that damps skip features, is not here: the authors' code runs it without effect. Nor is the concept passed as a negative
prompt, as their code does. On SDXL both encoders' halves are one space, and the pooled vector has its own subspace.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...concepts import ConceptSet
from ...embeddings import encode_texts
from ...models import EditableModel, Encoded
from ...options import choice, flag, number
from ...prompts import CHUNK
from .steered import Proposal

NAME = "safree"
SUMMARY = "Finds the words that bring a prompt near the concept and takes the concept's subspace out of them."
GATE = "always"


@dataclass(frozen=True)
class Settings:
    """Options of SAFREE; alpha, gamma, k and t0 as in the paper."""

    alpha: float = number(0.01, 0.0, 1.0, "how much farther than the others a prompt without a word must be")
    filter: bool = flag(True, "self-validating filter: keep the change for a part of the run that it finds itself")
    gamma: float = number(0.2, 0.0, 1.0, "longest part of the run that the filter gives (paper: 10 of 50 steps)")
    svf_k: float = number(2.5, 0.0, 100.0, "steepness of the filter (paper: 2.5 for nudity, 3.5 for styles)")
    svf_t0: float = number(5.333, 0.0, 10.0, "middle of the filter, ten times beta (5.333 for nudity, 5.5 for styles)")
    residual: float = number(0.0, 0.0, 1.0, "share of the concept's component that stays")
    rows: str = choice("words", ("words", "words+end", "all"), "what a trigger changes: itself, the end, padding")


@dataclass(frozen=True)
class Fitted:
    """Bases [D, r] of the concept's subspace for rows and, on SDXL, for the pooled vector."""

    model: EditableModel
    settings: Settings
    basis: Tensor
    pooled: Tensor | None

    def propose(self, encoded: Encoded) -> Proposal:
        """The filtered texts; a prompt without trigger stays as it is."""
        hidden = encoded.hidden.detach().double().cpu().clone()
        pooled = None if encoded.pooled is None else encoded.pooled.detach().double().cpu().clone()
        own = encoded.extras.get("chunks")
        until, presence = torch.zeros(len(encoded)).double(), torch.zeros(len(encoded)).double()
        for i in range(len(encoded)):
            chunks = encoded.eos.shape[1] if own is None else int(own[i])
            before = hidden[i].clone()
            for c in range(chunks):
                found, vectors, labels = self._triggers(encoded, i, c)
                if not found.any():
                    continue
                presence[i] = max(float(presence[i]), float(found.double().mean()))
                place = slice(CHUNK * c, CHUNK * (c + 1))
                rows = _touched(found, int(encoded.eos[i, c]), self.settings.rows)
                part = hidden[i, place]
                part[rows] = cleaned(part[rows], self.basis, span(vectors), self.settings.residual)
                if c == 0 and pooled is not None and self.pooled is not None and labels is not None:
                    pooled[i] = cleaned(pooled[i : i + 1], self.pooled, span(labels), self.settings.residual)[0]
            hidden[i] = hidden[i, : CHUNK * chunks].repeat(encoded.eos.shape[1] // chunks, 1)
            until[i] = self._until(before, hidden[i], encoded.eos[i])
        return Proposal(hidden, pooled, until, presence)

    def _triggers(self, encoded: Encoded, i: int, c: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of one chunk: which words are triggers [n], the blanked prompts' vectors [n, D] and pooled vectors."""
        end = int(encoded.eos[i, c])
        if end < 2:
            return torch.zeros(0, dtype=torch.bool), torch.zeros(0, encoded.hidden.shape[2]), None
        blanked = self.model.encode_ids({n: without_each(ids[i, c].cpu(), end) for n, ids in encoded.tokens.items()})
        vectors = blanked.hidden[:, end].double().cpu()
        whole = encoded.hidden[i, CHUNK * c + end].double().cpu()
        found = triggers(distances(vectors, self.basis), self.settings.alpha, float(distances(whole, self.basis)))
        return found, vectors, None if blanked.pooled is None else blanked.pooled.double().cpu()

    def _until(self, before: Tensor, after: Tensor, ends: Tensor) -> float:
        if not self.settings.filter:
            return 1.0
        within = torch.arange(len(before)) % CHUNK
        active = within <= ends.cpu().repeat_interleave(CHUNK)
        beta = 1 - float(cosine_similarity(before[active], after[active], dim=1).mean())
        return duration(beta, self.settings)


def fit(model: EditableModel, concepts: ConceptSet, settings: Settings) -> Fitted:
    """The concept's subspace from all phrases, bare."""
    texts = list(encode_texts(model, [phrase for concept in concepts for phrase in concept.phrases]).values())
    basis = span(torch.stack([text.rows[text.eos] for text in texts]).double().cpu())
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Fitted(model, settings, basis, span(torch.stack(pooled).double().cpu()) if pooled else None)


def span(vectors: Tensor) -> Tensor:
    """Orthonormal basis [D, r] of the span of ``vectors`` [K, D]."""
    left, values, _ = torch.linalg.svd(vectors.T, full_matrices=False)
    limit = values.max() * max(vectors.shape) * torch.finfo(values.dtype).eps if len(values) else 0.0
    return left[:, values > limit]


def distances(vectors: Tensor, basis: Tensor) -> Tensor:
    """``|(I - P) p|`` of ``vectors`` [..., D] from the span of ``basis`` [D, r]."""
    return torch.linalg.vector_norm(vectors - vectors @ basis @ basis.T, dim=-1)


def triggers(found: Tensor, alpha: float, whole: float) -> Tensor:
    """Which words [n] are triggers, by the distances ``found`` [n] of the prompt without each.

    A lone word has no others to compare with; it is compared with the distance ``whole`` of the prompt itself.
    """
    count = len(found)
    others = (found.sum() - found) / (count - 1) if count > 1 else torch.full_like(found, whole)
    return found > (1 + alpha) * others


def cleaned(rows: Tensor, concept: Tensor, prompt: Tensor, residual: float) -> Tensor:
    """``(I - (1 - residual) P_C) P_I e`` for rows [n, D], bases ``concept`` and ``prompt`` [D, r]."""
    inside = rows @ prompt @ prompt.T
    return inside - (1 - residual) * (inside @ concept @ concept.T)


def duration(beta: float, settings: Settings) -> float:
    """The part of the run, 0..gamma, for which the filter keeps the change; grows with ``beta``."""
    return settings.gamma * float(torch.sigmoid(torch.tensor(2 * settings.svf_k * (10 * beta - settings.svf_t0))))


def without_each(ids: Tensor, end: int) -> Tensor:
    """[n, 77]: the chunk ``ids`` [77] with each of its n words replaced by id 0 in turn."""
    copies = ids.repeat(end - 1, 1)
    copies[torch.arange(end - 1), torch.arange(1, end)] = 0
    return copies


def _touched(found: Tensor, end: int, rows: str) -> Tensor:
    mask = torch.zeros(CHUNK, dtype=torch.bool)
    mask[1:end] = found
    if rows != "words":
        mask[end] = True
    if rows == "all":
        mask[end:] = True
    return mask

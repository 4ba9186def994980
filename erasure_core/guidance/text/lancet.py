"""Concept Lancet (arXiv 2504.02828, CVPR 2025): measure how much of a concept is in a text, and transplant that much.

A row ``v`` is taken apart over a dictionary of concept vectors, ``w = argmin |v - D w|^2 + lam (tau |w|_1 + (1 - tau)
|w|_2^2 / 2)``, and moved by ``w_target (d_anchor - d_target)``; what the dictionary does not explain stays in the row,
so nothing else moves. Rows and concept vectors are brought to length 1 first, so ``lam`` means the same everywhere.

Concept vectors are means over thirty surroundings of a phrase. The dictionary is chosen from the prompt: the target,
its anchor, what is to be preserved, and the prompt's own words. Flattened grids of positions, as published, tie a
concept to where it stood; here each place (words, end, padding, pooled) has its own dictionary. Weights are not
negative: less than nothing of a concept cannot be in a text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...concepts import ConceptSet
from ...embeddings import Text, content, encode_texts
from ...errors import BadInput
from ...gates import words_of
from ...models import EditableModel, Encoded
from ...options import choice, number
from ...templates import contexts, fill
from ...words import words_of_ids, words_of_text
from .places import chosen, places
from .steered import Proposal

NAME = "lancet"
SUMMARY = "Takes a text apart into concepts and swaps exactly as much of the target as is in it for the anchor."
GATE = "always"
_ROUNDS = 500
_SMALL = 1e-9


@dataclass(frozen=True)
class Settings:
    """Options of Concept Lancet; lam and tau as in the paper and its code."""

    lam: float = number(0.01, 0.0, 10.0, "penalty: larger leaves more of the dictionary unused")
    tau: float = number(0.95, 0.0, 1.0, "share of the penalty that is on absolute values; the rest is on squares")
    scale: float = number(1.0, 0.0, 10.0, "how much of the weight found is transplanted")
    rows: str = choice("all", ("words", "words+end", "all"), "which rows are changed, padding included or not")
    anchor: str = choice("anchor", ("anchor", "none"), "swap for the concept's anchor, or take away only")
    sources: int = number(30, 1, 30, "surroundings that a concept vector is the mean of", whole=True)


@dataclass(frozen=True)
class Fitted:
    """Vectors of the concept's phrases, of their anchors in the same order, and of what stays."""

    model: EditableModel
    settings: Settings
    kind: str
    phrases: tuple[str, ...]
    targets: dict[str, Tensor]
    anchors: dict[str, Tensor]
    kept: dict[str, Tensor]
    _words: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def propose(self, encoded: Encoded) -> Proposal:
        """Every selected row moved by what is found in it; a row without the concept stays as it is."""
        hidden = encoded.hidden.detach().double().cpu().clone()
        pooled = None if encoded.pooled is None else encoded.pooled.detach().double().cpu().clone()
        where, presence = places(encoded), torch.zeros(len(encoded)).double()
        for i, ids in enumerate(words_of(encoded)):
            own = self._of_words(words_of_ids(ids).texts)
            for place in chosen(self.settings.rows):
                rows = where[place][i]
                hidden[i, rows], found = self._moved(hidden[i, rows], place, own)
                presence[i] = max(float(presence[i]), found)
            if pooled is not None:
                pooled[i : i + 1], _ = self._moved(pooled[i : i + 1], "pooled", own)
        return Proposal(hidden, pooled, torch.ones(len(encoded)).double(), presence)

    def _moved(self, rows: Tensor, place: str, own: dict[str, Tensor]) -> tuple[Tensor, float]:
        targets, anchors = self.targets[place], self.anchors[place]
        dictionary = torch.cat([targets, *self._beside(place), own.get(place, targets[:0])])
        if not len(rows):
            return rows, 0.0
        weights = decompose(rows, dictionary, self.settings.lam, self.settings.tau)[:, : len(targets)]
        return transplanted(rows, weights * self.settings.scale, targets, anchors), float(weights.max())

    def _beside(self, place: str) -> list[Tensor]:
        anchors = [self.anchors[place]] if self.settings.anchor == "anchor" else []
        return [*anchors, self.kept[place]]

    def _of_words(self, words: tuple[str, ...]) -> dict[str, Tensor]:
        """Vectors of the prompt's own words, those of the concept's phrases left out."""
        known = {word for phrase in self.phrases for word in words_of_text(phrase).texts}
        wanted = [word for word in dict.fromkeys(words) if word not in known]
        missing = [word for word in wanted if word not in self._words]
        if missing:
            made = vectors(self.model, missing, self.kind, self.settings.sources)
            for n, word in enumerate(missing):
                self._words[word] = {place: rows[n] for place, rows in made.items()}
        if not wanted:
            return {}
        return {place: torch.stack([self._words[word][place] for word in wanted]) for place in self.targets}


def fit(model: EditableModel, concepts: ConceptSet, settings: Settings) -> Fitted:
    """Vectors of targets, anchors and preserved phrases."""
    kind = next(iter(concepts)).kind
    pairs = [(phrase, c.resolved_anchor(model.neutrals)) for c in concepts for phrase in c.phrases]
    for phrase, anchor in pairs:
        if not words_of_text(phrase).texts:
            raise BadInput(f"{phrase!r} holds no word, so no concept vector can be made of it. Write another phrase.")
        if not words_of_text(anchor).texts and settings.anchor == "anchor":
            raise BadInput(f"The anchor of {phrase!r} holds no word. Name one, or use anchor=none.")
    count = settings.sources
    targets = vectors(model, [phrase for phrase, _ in pairs], kind, count)
    if settings.anchor == "anchor":
        anchors = vectors(model, [anchor for _, anchor in pairs], kind, count)
    else:
        anchors = {place: torch.zeros_like(rows) for place, rows in targets.items()}
    said = {word for phrase, anchor in pairs for word in (phrase.casefold(), anchor.casefold())}
    kept = [phrase for phrase in concepts.all_preserved if phrase.casefold() not in said]
    beside = vectors(model, kept, kind, count) if kept else {place: rows[:0] for place, rows in targets.items()}
    return Fitted(model, settings, kind, tuple(phrase for phrase, _ in pairs), targets, anchors, beside)


def vectors(model: EditableModel, phrases: list[str], kind: str, count: int) -> dict[str, Tensor]:
    """Concept vectors [m, d] of ``phrases`` by place, each the mean over ``count`` surroundings, float64."""
    shapes = contexts(kind)[:count]
    texts = encode_texts(model, [*phrases, *(fill(shape, phrase) for phrase in phrases for shape in shapes)])
    made: dict[str, list[Tensor]] = {}
    for phrase in phrases:
        ids = content(texts[phrase])
        samples = [texts[fill(shape, phrase)] for shape in shapes]
        for place, rows in _rows(samples, ids).items():
            made.setdefault(place, []).append(rows.mean(0))
    return {place: torch.stack(rows) for place, rows in made.items()}


def _rows(samples: list[Text], ids: tuple[int, ...]) -> dict[str, Tensor]:
    rows = {
        "words": torch.stack([text.rows[text.last(ids)] for text in samples]),
        "end": torch.stack([text.rows[text.eos] for text in samples]),
        "padding": torch.stack([text.rows[min(text.eos + 1, len(text.rows) - 1) :].mean(0) for text in samples]),
    }
    labels = [text.pooled for text in samples if text.pooled is not None]
    if labels:
        rows["pooled"] = torch.stack(labels)
    return {place: found.double().cpu() for place, found in rows.items()}


def decompose(rows: Tensor, dictionary: Tensor, lam: float, tau: float) -> Tensor:
    """Weights [n, m] >= 0 of ``rows`` [n, d] over ``dictionary`` [m, d], by coordinate descent in float64.

    The objective is that of the module, for rows and columns of length 1; the weights are those of the given lengths.
    """
    sizes = torch.linalg.vector_norm(dictionary, dim=1).clamp_min(1e-12)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)
    d, v = dictionary / sizes[:, None], rows / lengths
    gram, wanted = d @ d.T, v @ d.T
    weights = torch.zeros_like(wanted)
    for _ in range(_ROUNDS):
        largest = 0.0
        for j in range(len(d)):
            left = wanted[:, j] - weights @ gram[:, j] + weights[:, j] * gram[j, j]
            new = (left - lam * tau / 2).clamp_min(0) / (gram[j, j] + lam * (1 - tau) / 2).clamp_min(1e-12)
            largest = max(largest, float((new - weights[:, j]).abs().max()))
            weights[:, j] = new
        if largest < _SMALL:
            break
    return weights * lengths / sizes


def transplanted(rows: Tensor, weights: Tensor, targets: Tensor, anchors: Tensor) -> Tensor:
    """``v + sum_j w_j (anchor_j - target_j)`` for rows [n, d], weights [n, k], targets and anchors [k, d]."""
    return rows + weights @ (anchors - targets)

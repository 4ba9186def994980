"""LEACE behind a gate: take from a text what a linear classifier could tell the concept by, if the prompt is about it.

LEACE (arXiv 2306.03819): ``r(x) = x - W^+ P W (x - mu)``. It is fitted on rows of sentences with the concept and of the
same sentences with the anchor, for words, end token, padding and pooled vector each by itself, because they are
different populations. Everything within its limits: no linear classifier can read the concept from the rows any more,
what a denoiser can read is another matter. A closed gate leaves the text bitwise as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...closed_form.leace import Labelled
from ...closed_form.leace import Settings as Leace
from ...closed_form.leace import fit as fit_leace
from ...concepts import ConceptSet
from ...embeddings import Text, content, encode_texts
from ...errors import BadInput
from ...models import EditableModel, Encoded
from ...options import choice, flag, number
from ...templates import contexts, fill
from .places import chosen, places
from .steered import Proposal

NAME = "projection"
SUMMARY = "Takes the direction out of the text that a linear classifier would know the concept by; needs its gate."
GATE = "words"


@dataclass(frozen=True)
class Settings:
    """Options of the projection."""

    variant: str = choice("leace", ("leace", "orth"), "leace: least change; orth: without whitening")
    to: str = choice("anchor", ("anchor", "mean"), "where along the direction: what the anchor has, or the common mean")
    rows: str = choice("all", ("words", "words+end", "all"), "which rows are changed, padding included or not")
    scale: float = number(1.0, 0.0, 10.0, "1 projects, more goes beyond")
    shrinkage: bool = flag(True, "estimate the covariance by linear shrinkage; needed with fewer rows than dimensions")


@dataclass(frozen=True)
class Eraser:
    """``x + up (down (x - centre))``: up [d, r], down [r, d], centre [d], float64."""

    up: Tensor
    down: Tensor
    centre: Tensor

    def __call__(self, rows: Tensor, scale: float) -> Tensor:
        """Rows [n, d] without the concept."""
        return rows + scale * ((rows - self.centre) @ self.down.T) @ self.up.T


@dataclass(frozen=True)
class Fitted:
    """An eraser for each place."""

    settings: Settings
    erasers: dict[str, Eraser]

    def propose(self, encoded: Encoded) -> Proposal:
        """Every selected row projected."""
        hidden = encoded.hidden.detach().double().cpu().clone()
        pooled = None if encoded.pooled is None else encoded.pooled.detach().double().cpu().clone()
        where = places(encoded)
        for place in chosen(self.settings.rows):
            hidden[where[place]] = self.erasers[place](hidden[where[place]], self.settings.scale)
        if pooled is not None and "pooled" in self.erasers:
            pooled = self.erasers["pooled"](pooled, self.settings.scale)
        ones = torch.ones(len(encoded)).double()
        return Proposal(hidden, pooled, ones, ones)


def fit(model: EditableModel, concepts: ConceptSet, settings: Settings) -> Fitted:
    """Erasers from thirty surroundings of every phrase and its anchor; preserved phrases count as without it."""
    pairs = [
        (phrase, c.resolved_anchor(model.neutrals), c.kind, g) for g, c in enumerate(concepts) for phrase in c.phrases
    ]
    for phrase, anchor, _, _ in pairs:
        if phrase.casefold() == anchor.casefold():
            raise BadInput(f"'{anchor}' is both the concept and its anchor. Name another anchor.")
    said = [(fill(s, text), text) for p, a, kind, _ in pairs for s in contexts(kind) for text in (p, a)]
    kept = [(fill(s, phrase), phrase) for phrase in concepts.all_preserved for s in contexts("object")[:5]]
    texts = encode_texts(model, [text for entry in said + kept for text in entry])
    owners = [g for _, _, kind, g in pairs for _ in contexts(kind)]
    rows = _rows([(texts[text], content(texts[word])) for text, word in said + kept])
    return Fitted(settings, {place: _eraser(x, owners, settings) for place, x in rows.items()})


def _rows(entries: Sequence[tuple[Text, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Place -> rows [n, d] of each text: its last word of interest, end token, last padding, pooled vector."""
    rows = {
        "words": torch.stack([text.rows[text.last(ids)] for text, ids in entries]),
        "end": torch.stack([text.rows[text.eos] for text, _ in entries]),
        "padding": torch.stack([text.rows[-1] for text, _ in entries]),
    }
    labels = [text.pooled for text, _ in entries if text.pooled is not None]
    if labels:
        rows["pooled"] = torch.stack(labels)
    return {place: found.double().cpu() for place, found in rows.items()}


def _eraser(x: Tensor, owners: Sequence[int], settings: Settings) -> Eraser:
    """``x`` [n, d]: first with and without the concept in turn, one pair per entry of ``owners``; then kept rows."""
    count = max(owners) + 1
    z = torch.zeros(len(x), count, dtype=torch.float64)
    pairs = torch.arange(len(owners))
    z[2 * pairs, torch.tensor(owners)] = 1
    options = Leace(variant=settings.variant, shrinkage=settings.shrinkage, svd_tol=1e-6)
    up, down, _ = fit_leace(Labelled(x, z), options, constrain=False)
    centre = x[2 * pairs + 1].mean(0) if settings.to == "anchor" else x.mean(0)
    return Eraser(up, down, centre)

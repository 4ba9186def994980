"""The calibrated gate: open for prompts that name the concept, partly for prompts that describe it, else closed.

It looks at words first, then at two kinds of vectors: rows of single tokens, as :mod:`likeness` measures them, and the
end-of-text row of each chunk, which stands for the whole of it. For both, a floor and a ceiling are fitted to the
concept and the text encoder: SPM's facilitated transport (arXiv 2312.16145) has none, and so is open for nearly every
text. Fitted numbers can be kept in the erasure's file (:func:`fitted`), so that applying it needs no bank of prompts.

The three constants were tuned on half of the concepts of ``benchmarks/gate_bank.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .erasure import POOLED_SPACE, Erasure
from .likeness import CLOSED_BELOW, LEAST, Likeness, Said, Subject, measure, named_in, neutral_bank, uncalibrated
from .models import EditableModel
from .naming import Named, Naming
from .probe import SAME, probe, probe_distance
from .words import words_of_text

VERSION = 1
PERCENTILE = 0.98  # of the neutral prompts: the floor of whole texts
SHARE = 0.2  # of the way from the floor to what the concept's own sentences reach: the ceiling of whole texts
POWER = 3.0  # of the gain of whole texts: what lies near the floor stays nearly closed
MOST_NEIGHBOURS = 64  # preserved phrases that count as neighbours


@dataclass(frozen=True)
class Calibrated:
    """How far a text is like one concept: by ``tokens`` and by ``ends`` of texts, each with its floor and ceiling."""

    tokens: Likeness
    ends: Likeness

    def __call__(self, rows: Tensor, ends: Sequence[int] | None) -> float:
        """0..1 for a text's rows [T, d]; ``ends``: positions of its end-of-text rows, None if they are not known."""
        by_tokens = float(self.tokens(rows)[0])
        if not ends:
            return by_tokens
        whole = float(self.ends(rows[list(ends)])[0]) ** POWER
        return max(by_tokens, whole if whole >= CLOSED_BELOW else 0.0)

    @property
    def floor(self) -> list[float]:
        """Cosines below which it is closed: of tokens, of whole texts."""
        return [float(part.floors[0]) for part in (self.tokens, self.ends)]

    @property
    def ceiling(self) -> list[float]:
        """Cosines from which it is fully open: of tokens, of whole texts."""
        return [float(part.ceilings[0]) for part in (self.tokens, self.ends)]


def subject_of(phrases: Sequence[str], neighbours: Sequence[str]) -> Subject:
    """A concept named by ``phrases``; of ``neighbours`` those that do not name it themselves, at most 64."""
    naming = Naming([Named(tuple(phrases), sensitivity=1.0)])
    apart = [phrase for phrase in neighbours if not naming(words_of_text(phrase))]
    return Subject(tuple(phrases), "object", tuple(apart[:MOST_NEIGHBOURS]))


def calibrated(model: EditableModel, gate: Mapping[str, Any]) -> Calibrated:
    """For the concept of an erasure's ``gate``: by its stored numbers if they are of this encoder, else measured."""
    return _stored(model, gate) or _measured(model, _subject(gate))


def fitted(erasure: Erasure, model: EditableModel) -> Erasure:
    """The erasure with floor, ceiling, centre and the encoder's probe in its ``gate``; as it is if it names nothing.

    ``floor`` and ``ceiling`` are cosines for tokens and for whole texts, ``centre`` is base64 of float32 [d].
    """
    if not erasure.gate.get("phrases"):
        return erasure
    found = _measured(model, _subject(erasure.gate))
    numbers = {
        "floor": [round(value, 6) for value in found.floor],
        "ceiling": [round(value, 6) for value in found.ceiling],
        "centre": base64.b64encode(found.tokens.centre.numpy().astype("<f4").tobytes()).decode(),
        "encoder": _encoder(model),
        "fitted": _key(erasure.gate),
    }
    return replace(erasure, gate={**erasure.gate, **numbers})


def _subject(gate: Mapping[str, Any]) -> Subject:
    return subject_of([str(p) for p in gate["phrases"]], [str(p) for p in gate.get("neighbours", ())])


def _key(gate: Mapping[str, Any]) -> str:
    """Of this version of the measure and of the phrases: numbers fitted to others are not used."""
    text = json.dumps([VERSION, list(map(str, gate["phrases"])), list(map(str, gate.get("neighbours", ())))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encoder(model: EditableModel) -> dict[str, str]:
    return {space: text for space, text in probe(model).items() if space != POOLED_SPACE}


def _measured(model: EditableModel, subject: Subject) -> Calibrated:
    bank = neutral_bank(model)
    said = Said(model, [subject], bank.centre)
    raw = uncalibrated(said, [subject], said.ending)
    apart = ~named_in(bank.prompts, [subject])[:, 0]
    floor = 0.0
    if apart.any():
        floor = float(torch.quantile(_scores(raw, bank.ends[apart]), PERCENTILE))
    own = float(_scores(raw, said.endings(subject)).median())
    ceiling = floor + max(SHARE * (own - floor), LEAST)
    return Calibrated(measure(model, [subject]), _between(raw, floor, ceiling))


def _scores(raw: Likeness, rows: Tensor) -> Tensor:
    """[n] of the end-of-text rows [n, d] of n texts."""
    return raw.scores_of(rows, torch.arange(len(rows)), len(rows))[:, 0]


def _between(raw: Likeness, floor: float, ceiling: float) -> Likeness:
    return replace(raw, floors=torch.tensor([floor]).double(), ceilings=torch.tensor([ceiling]).double())


def _stored(model: EditableModel, gate: Mapping[str, Any]) -> Calibrated | None:
    """From the numbers in a file; None if there are none, or of another encoder, concept or measure."""
    if gate.get("fitted") != _key(gate):
        return None
    try:
        theirs, ours = gate["encoder"], _encoder(model)
        same = theirs.keys() == ours.keys() and all(probe_distance(theirs[s], ours[s]) <= SAME for s in ours)
        centre = torch.from_numpy(np.frombuffer(base64.b64decode(gate["centre"]), dtype="<f4").astype(np.float64))
        ends = [(float(low), float(high)) for low, high in zip(gate["floor"], gate["ceiling"], strict=True)]
    except (AttributeError, KeyError, TypeError, ValueError):  # a file can say anything
        return None
    width = next(iter(model.spaces.values()))
    if not same or len(ends) != 2 or len(centre) != width or not all(-1 <= low < high <= 2 for low, high in ends):
        return None
    subject = _subject(gate)
    said = Said(model, [subject], centre)
    tokens, whole = (uncalibrated(said, [subject], reference) for reference in (said.reference, said.ending))
    return Calibrated(_between(tokens, *ends[0]), _between(whole, *ends[1]))

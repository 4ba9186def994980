"""When a membrane acts: a gate turns a prompt into an activation between 0 (closed) and 1 (erases fully).

A gate sees one row of a conditioning at a time. Where the prompt's token ids are known it looks for words and is exact;
where only vectors have arrived (conditioning that was concatenated, averaged or made elsewhere) it compares rows and
says "approximate".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .embeddings import encode_texts, select_rows
from .errors import BadInput
from .models import EditableModel, Encoded
from .probe import PROMPTS
from .prompts import escape
from .templates import fill, sentences

GATES = ("always", "words")
CLOSED_BELOW = 0.05  # activations below this count as closed, so that prompts of other matters stay bitwise the same
_NEIGHBOURS = 64  # preserved phrases that are read for the floor


@dataclass(frozen=True)
class PromptRow:
    """One row of a conditioning: ``rows`` [T, d] and, where known, ``ids``: tokens of all chunks without specials."""

    rows: Tensor
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Activation:
    """``gain`` in 0..1 and how it was found: ``mode`` is "constant", "exact" or "approximate"."""

    gain: float
    mode: str


class Gate(Protocol):
    """Gives a prompt its activation."""

    def __call__(self, prompt: PromptRow) -> Activation:
        """The activation of one prompt."""


class Always:
    """Open for every prompt."""

    def __call__(self, prompt: PromptRow) -> Activation:
        """Always 1."""
        return Activation(1.0, "constant")


@dataclass(frozen=True)
class Words:
    """Open for prompts that name the concept.

    ``phrases``: token ids of each phrase and of its plural. ``likeness``: what to do without token ids.
    """

    phrases: frozenset[tuple[int, ...]]
    likeness: Likeness

    def __call__(self, prompt: PromptRow) -> Activation:
        """1 if any phrase stands in the prompt, also across the seam of two chunks; else 0."""
        if prompt.ids is None:
            return Activation(self.likeness(prompt.rows), "approximate")
        return Activation(float(_names(prompt.ids, self.phrases)), "exact")


@dataclass(frozen=True)
class Likeness:
    """How much some row of a conditioning is like a row of the concept, between what other texts reach and the concept.

    ``centre`` [d] is subtracted from every row; ``references`` [m, d] are centred rows of the concept's last token, of
    length 1. Cosines are scaled from ``floor`` (0) to ``ceiling`` (1); below ``CLOSED_BELOW`` the gate is closed.
    """

    centre: Tensor
    references: Tensor
    floor: float
    ceiling: float

    def __call__(self, rows: Tensor) -> float:
        """The scaled cosine of the row of ``rows`` [T, d] that is most alike."""
        cosine = float(_cosines(rows, self.centre, self.references).max())
        gain = min(1.0, max(0.0, (cosine - self.floor) / (self.ceiling - self.floor)))
        return gain if gain >= CLOSED_BELOW else 0.0


def check_gate(kind: str, phrases: Sequence[str]) -> None:
    """Raise BadInput for an unknown gate, or one that needs the concept's words where the file stores none."""
    if kind not in GATES:
        raise BadInput(f"A gate is one of {', '.join(GATES)}, not {kind!r}.")
    if kind == "words" and not phrases:
        raise BadInput(
            "The gate 'words' opens when a prompt names the concept, but this file does not say what it erases. "
            "Use the gate 'always'."
        )


def make_gate(kind: str, phrases: Sequence[str], neighbours: Sequence[str], model: EditableModel) -> Gate:
    """The gate ``kind`` for a concept named by ``phrases``; ``neighbours`` are phrases that must not open it."""
    check_gate(kind, phrases)
    if kind == "always":
        return Always()
    named = {form for phrase in phrases for form in (phrase, _plural(phrase))}
    encoded = model.encode([escape(form) for form in sorted(named)])
    ids = frozenset(word for word in words_of(encoded) if word)
    if not ids:
        raise BadInput(f"The gate 'words' cannot look for {phrases[0]!r}: the text encoder has no token for it.")
    others = ["", *PROMPTS, *neighbours[:_NEIGHBOURS]]
    said = words_of(model.encode([escape(text) for text in others]))
    neutral = [text for text, words in zip(others, said, strict=True) if not _names(words, ids)]
    return Words(ids, _likeness(phrases, neutral, model))


def _names(words: tuple[int, ...], phrases: frozenset[tuple[int, ...]]) -> bool:
    """Whether any phrase stands in a text, as token ids."""
    return any(words[i : i + len(p)] == p for p in phrases for i in range(len(words) - len(p) + 1))


def words_of(encoded: Encoded) -> list[tuple[int, ...]]:
    """Token ids of every prompt without start, end and padding, chunks joined; ids of the first encoder."""
    ids = next(iter(encoded.tokens.values()))
    ends = encoded.eos
    own = encoded.extras.get("chunks")
    count = [ids.shape[1]] * len(ids) if own is None else [int(n) for n in own]
    return [
        tuple(int(t) for k in range(count[b]) for t in ids[b, k, 1 : int(ends[b, k])].tolist()) for b in range(len(ids))
    ]


def content_ids(chunks: Iterable[Sequence[int]], end: int) -> tuple[int, ...]:
    """The same from plain lists: what stands in each chunk between the start and the first ``end`` token."""
    return tuple(t for chunk in chunks for t in chunk[1 : chunk.index(end) if end in chunk else len(chunk)])


def _plural(phrase: str) -> str:
    """The English plural of the last word, as far as rules go."""
    word = phrase.casefold()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return phrase + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return phrase[:-1] + "ies"
    return phrase + "s"


def _likeness(phrases: Sequence[str], neutral: Sequence[str], model: EditableModel) -> Likeness:
    """References are the concept inside our sentences; the floor is what texts of other matters reach, the ceiling what
    the references reach among themselves."""
    references = [select_rows(model, [fill(shape, p) for shape in sentences("object")], "LAST") for p in phrases]
    others = torch.cat([text.rows[1 : text.eos + 1] for text in encode_texts(model, neutral).values()]).double()
    centre = others.mean(0)
    units = [torch.nn.functional.normalize(rows.double() - centre, dim=1) for rows in references]
    among = [(own @ own.T - 2 * torch.eye(len(own)).double()).max(1).values.min() for own in units]
    floor = min(float(_cosines(others, centre, torch.cat(units)).max()), 0.99)
    return Likeness(centre, torch.cat(units), floor, max(float(min(among)), floor + 0.01))


def _cosines(rows: Tensor, centre: Tensor, references: Tensor) -> Tensor:
    """Cosine of every row [T, d] with every reference [m, d], centred: [T, m]."""
    centred = rows.detach().to("cpu", torch.float64) - centre
    return torch.nn.functional.normalize(centred, dim=1) @ references.T

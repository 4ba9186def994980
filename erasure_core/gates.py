"""When a membrane acts: a gate turns a prompt into an activation between 0 (closed) and 1 (erases fully).

A gate sees one row of a conditioning at a time. Where the prompt's token ids are known it looks for words and is exact;
where only vectors have arrived (conditioning that was concatenated, averaged or made elsewhere) it compares rows and
says "approximate".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .errors import BadInput
from .likeness import Likeness, Subject, measure
from .models import EditableModel, Encoded
from .naming import Named, Naming
from .prompts import escape
from .words import Words, words_of_ids, words_of_text

GATES = ("always", "words", "likeness", "either", "both")
_NEIGHBOURS = 64  # preserved phrases that count as neighbours


@dataclass(frozen=True)
class PromptRow:
    """One row of a conditioning: ``rows`` [T, d] and, where known, ``ids``: tokens of all chunks without specials."""

    rows: Tensor
    ids: tuple[int, ...] | None = None

    @property
    def words(self) -> Words | None:
        """What was written, if that is known."""
        return None if self.ids is None else words_of_ids(self.ids)


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
class ByLikeness:
    """Open as far as the text is like the concept of ``likeness``."""

    likeness: Likeness

    def __call__(self, prompt: PromptRow) -> Activation:
        """The calibrated cosine."""
        return Activation(float(self.likeness(prompt.rows)[0]), "approximate")


@dataclass(frozen=True)
class ByWords:
    """Open for prompts in which ``naming`` finds the concept; ``otherwise`` decides where the words are not known."""

    naming: Naming
    otherwise: Gate

    def __call__(self, prompt: PromptRow) -> Activation:
        """1 if any phrase stands in the prompt, also across the seam of two chunks; else 0."""
        words = prompt.words
        return self.otherwise(prompt) if words is None else Activation(float(bool(self.naming(words))), "exact")


@dataclass(frozen=True)
class Combined:
    """Words and likeness together: the larger of the two, or with ``both`` their product."""

    words: ByWords
    likeness: ByLikeness
    both: bool

    def __call__(self, prompt: PromptRow) -> Activation:
        """Exact if the words alone settle it."""
        like = self.likeness(prompt)
        if prompt.ids is None:
            return like
        named = self.words(prompt)
        if named.gain == (0.0 if self.both else 1.0):
            return named
        return Activation(named.gain * like.gain if self.both else like.gain, "approximate")


def check_gate(kind: str, phrases: Sequence[str]) -> None:
    """Raise BadInput for an unknown gate, or one that needs the concept's words where the file stores none."""
    if kind not in GATES:
        raise BadInput(f"A gate is one of {', '.join(GATES)}, not {kind!r}.")
    if kind != "always" and not phrases:
        raise BadInput(
            f"The gate '{kind}' opens when a prompt names the concept, but this file does not say what it erases. "
            "Use the gate 'always'."
        )


def make_gate(kind: str, phrases: Sequence[str], neighbours: Sequence[str], model: EditableModel) -> Gate:
    """The gate ``kind`` for a concept named by ``phrases``; ``neighbours`` are phrases that must not open it.

    Every word counts in any sense: whoever puts one membrane before a prompt means it.
    """
    check_gate(kind, phrases)
    if kind == "always":
        return Always()
    check_readable(phrases, model)
    naming = Naming([Named(tuple(phrases), sensitivity=1.0)])
    apart = [phrase for phrase in neighbours if not naming(words_of_text(phrase))]
    like = ByLikeness(measure(model, [Subject(tuple(phrases), "object", tuple(apart[:_NEIGHBOURS]))]))
    if kind == "likeness":
        return like
    words = ByWords(naming, like)
    return words if kind == "words" else Combined(words, like, kind == "both")


def check_readable(phrases: Sequence[str], model: EditableModel) -> None:
    """Raise BadInput if a phrase holds no word, or the text encoder's tokens are not those that we can read."""
    for phrase, ids in zip(phrases, words_of(model.encode([escape(p) for p in phrases])), strict=True):
        wanted = "".join(words_of_text(phrase).texts)
        if not wanted or "".join(words_of_ids(ids).texts) != wanted:
            raise BadInput(
                f"Words cannot be looked for with {phrase!r}: it holds no letter or digit, or this text encoder reads "
                "it in another way than CLIP does. Write another phrase, or use the gate 'always'."
            )


def words_of(encoded: Encoded) -> list[tuple[int, ...]]:
    """CLIP's token ids of every prompt without start, end and padding, chunks joined."""
    if encoded.words is not None:
        return list(encoded.words)
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

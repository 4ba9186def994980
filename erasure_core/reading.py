"""What a gate sees of a prompt, one row of a conditioning at a time, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .models import Encoded
from .prompts import CHUNK
from .words import Words, words_of_ids


@dataclass(frozen=True)
class PromptRow:
    """One row of a conditioning: ``rows`` [T, d] and, where known, ``ids``: tokens of all chunks without specials.

    ``ends``: where known, the positions in ``rows`` of the end-of-text token of every chunk.
    """

    rows: Tensor
    ids: tuple[int, ...] | None = None
    ends: tuple[int, ...] | None = None

    @property
    def words(self) -> Words | None:
        """What was written, if that is known."""
        return None if self.ids is None else words_of_ids(self.ids)


@dataclass(frozen=True)
class Activation:
    """``gain`` in 0..1 (published gates may leave it) and how it was found.

    ``mode`` is "constant", "exact" or "approximate".
    """

    gain: float
    mode: str


def least_certain(modes: Iterable[str]) -> str:
    """The mode that says most of what is not known: "approximate" before "exact" before "constant"."""
    known = set(modes)
    return next((mode for mode in ("approximate", "exact") if mode in known), "constant")


def words_of(encoded: Encoded) -> list[tuple[int, ...]]:
    """CLIP's token ids of every prompt without start, end and padding, chunks joined."""
    if encoded.words is not None:
        return list(encoded.words)
    ids = next(iter(encoded.tokens.values()))
    ends = encoded.eos
    return [
        tuple(int(t) for k in range(count) for t in ids[b, k, 1 : int(ends[b, k])].tolist())
        for b, count in enumerate(_chunks(encoded))
    ]


def ends_of(encoded: Encoded) -> list[tuple[int, ...]]:
    """Position of the end of text in every chunk of every prompt, counted from the prompt's first row."""
    return [tuple(CHUNK * k + int(encoded.eos[b, k]) for k in range(count)) for b, count in enumerate(_chunks(encoded))]


def prompt_rows(encoded: Encoded) -> list[PromptRow]:
    """Every prompt as a gate sees it."""
    read = zip(words_of(encoded), ends_of(encoded), strict=True)
    return [PromptRow(encoded.hidden[b], ids, ends) for b, (ids, ends) in enumerate(read)]


def content_ids(chunks: Iterable[Sequence[int]], end: int) -> tuple[int, ...]:
    """The same as :func:`words_of` from plain lists: what stands in each chunk before the first ``end`` token."""
    return tuple(t for chunk in chunks for t in chunk[1 : _end(chunk, end)])


def content_ends(chunks: Iterable[Sequence[int]], end: int, length: int) -> tuple[int, ...] | None:
    """The same as :func:`ends_of` from plain lists; None if the text's ``length`` rows are not those of the chunks."""
    listed = list(chunks)
    if length != CHUNK * len(listed) or any(end not in chunk for chunk in listed):
        return None
    return tuple(CHUNK * k + _end(chunk, end) for k, chunk in enumerate(listed))


def _end(chunk: Sequence[int], end: int) -> int:
    return chunk.index(end) if end in chunk else len(chunk)


def _chunks(encoded: Encoded) -> list[int]:
    """How many chunks are each prompt's own."""
    own = encoded.extras.get("chunks")
    ids = next(iter(encoded.tokens.values()))
    return [ids.shape[1]] * len(ids) if own is None else [int(n) for n in own]

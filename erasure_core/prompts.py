"""Prompt syntax of the hosts: weights in brackets, escapes, and cutting a prompt into chunks of 75 tokens.

``(word)`` multiplies the weight by 1.1, ``(word:1.3)`` sets it, brackets nest, ``\\(`` and ``\\)`` are plain brackets;
square brackets mean nothing. A prompt longer than 75 tokens becomes several chunks of 77 positions; a stretch of fewer
than eight tokens is never split over two chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import BadInput

CHUNK = 77
START = 49406  # the start token of every CLIP tokenizer
MAX_CHUNKS = 32
_KEEP_TOGETHER = 8  # stretches shorter than this move to the next chunk whole
_OPEN, _CLOSE = "\x00\x02", "\x00\x01"  # stand-ins for escaped brackets while brackets are being counted


@dataclass(frozen=True)
class Span:
    """A stretch of plain text and the weight it is to be encoded with."""

    text: str
    weight: float


def escape(text: str) -> str:
    """``text`` with its brackets escaped, so that it is encoded letter by letter at weight 1."""
    return text.replace("(", "\\(").replace(")", "\\)")


def parse_weights(text: str) -> list[Span]:
    """Split a prompt into stretches of equal weight, in order, as the hosts' own parser does."""
    hidden = text.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    return [Span(span.text.replace(_CLOSE, ")").replace(_OPEN, "("), span.weight) for span in _spans(hidden, 1.0)]


def _spans(text: str, weight: float) -> list[Span]:
    """Depth-first without recursion: a prompt of ten thousand brackets must not exhaust the stack."""
    result: list[Span] = []
    pending = [(part, weight) for part in reversed(_top_level(text))]
    while pending:
        part, current = pending.pop()
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            result.append(Span(part, current))
            continue
        inner, explicit = _split_weight(part[1:-1])
        inherited = current * 1.1 if explicit is None else explicit
        pending.extend((piece, inherited) for piece in reversed(_top_level(inner)))
    return result


def _split_weight(text: str) -> tuple[str, float | None]:
    position = text.rfind(":")
    if position > 0:
        try:
            return text[:position], float(text[position + 1 :])
        except ValueError:
            pass
    return text, None


def _top_level(text: str) -> list[str]:
    """Bracketed groups and the text between them; unbalanced brackets stay in the text."""
    parts: list[str] = []
    start, depth = 0, 0
    for i, char in enumerate(text):
        if char == "(":
            if depth == 0 and i > start:
                parts.append(text[start:i])
                start = i
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                parts.append(text[start : i + 1])
                start = i + 1
    if start < len(text):
        parts.append(text[start:])
    return parts


@dataclass(frozen=True)
class Chunks:
    """A tokenised prompt: ``ids`` and ``weights`` [k][77], ``eos`` [k] = position of the first end-of-text token."""

    ids: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    eos: tuple[int, ...]


def chunk(spans: Sequence[Span], tokenize: Callable[[str], list[int]], bos: int, eos: int, pad: int) -> Chunks:
    """Lay tokenised stretches out in chunks of 77; ``tokenize`` gives ids without specials.

    Raises BadInput for a prompt longer than 32 chunks (2,400 tokens).
    """
    room = CHUNK - 2
    filled: list[list[tuple[int, float]]] = [[]]
    for span in spans:
        tokens = [(token, span.weight) for token in (tokenize(span.text) if span.text else [])]
        large = len(tokens) >= _KEEP_TOGETHER
        while len(filled[-1]) + len(tokens) > room:
            cut = room - len(filled[-1]) if large else 0
            filled[-1] += tokens[:cut]
            tokens = tokens[cut:]
            filled.append([])
            if len(filled) > MAX_CHUNKS:
                raise BadInput(
                    f"The prompt is longer than {MAX_CHUNKS * room:,} tokens (it starts with "
                    f"'{_start(spans)}'). Shorten it; a picture model reads only a few hundred words."
                )
        filled[-1] += tokens
    ids, weights, ends = [], [], []
    for content in filled:
        rest = room - len(content)
        ids.append((bos, *(token for token, _ in content), eos, *[pad] * rest))
        weights.append((1.0, *(weight for _, weight in content), 1.0, *[1.0] * rest))
        ends.append(ids[-1].index(eos))  # not always after the content: a text can spell the end token itself
    return Chunks(tuple(ids), tuple(weights), tuple(ends))


def _start(spans: Sequence[Span]) -> str:
    return "".join(span.text for span in spans)[:40]

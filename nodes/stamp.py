"""Words that travel with a conditioning: the ids of its tokens, so that gates see what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..erasure_core.reading import PromptRow, content_ends, content_ids
from . import host

END = 49407  # the end-of-text token of every CLIP tokenizer
_SHOWN = 60  # characters of a prompt that are shown with its gains
_SAME = 1e-3  # relative change of the squares' sum above which a conditioning is no longer the one that was stamped


def stamped(clip: Any) -> Any:
    """A clone of CLIP whose conditionings carry their words; their vectors stay bitwise the same."""

    def wrap(before: Callable[..., Any]) -> Callable[..., Any]:
        def encode_token_weights(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            out = before(tokens, *args, **kwargs)
            extra = out[2] if len(out) > 2 else {}
            return (*out[:2], {**extra, host.STAMP: _stamp(clip, tokens, out[0])})

        return encode_token_weights

    return host.with_encoding(clip, wrap)


def _stamp(clip: Any, tokens: Any, rows: Tensor) -> dict[str, Any]:
    if not isinstance(tokens, Mapping):
        return {}
    ids = {key: [token_ids(chunk) for chunk in chunks] for key, chunks in tokens.items() if key in host.ENCODERS}
    if not ids:
        return {}
    first = next(key for key in host.ENCODERS if key in ids)
    words = host.words_in(clip, first, content_ids(ids[first], END))
    return {
        "ids": ids[first],
        "encoder": host.ENCODERS[first],
        "text": words[:_SHOWN],
        "size": list(rows.shape[:2]),
        "norm": _norm(rows),
    }


def token_ids(chunk: Sequence[Sequence[Any]]) -> list[int]:
    """Ids of the host's (token, weight, ...) entries; -1 for the vectors of a textual inversion."""
    return [int(entry[0]) if isinstance(entry[0], int) else -1 for entry in chunk]


def read(stamp: Mapping[str, Any] | None, rows: Tensor) -> list[tuple[PromptRow, str]]:
    """Each row of a conditioning [n, T, d] with its words, if they are still true of it, and what to show of them.

    Words are lost where several prompts were stacked, and no longer true where a node joined, averaged or changed
    vectors.
    """
    if stamp and stamp.get("size") == list(rows.shape[:2]) == [1, rows.shape[1]]:
        norm = stamp.get("norm", 0.0)
        if abs(_norm(rows) - norm) <= _SAME * max(norm, 1e-12):
            chunks = stamp["ids"]
            ends = content_ends(chunks, END, rows.shape[1])
            return [(PromptRow(rows[0], content_ids(chunks, END), ends), stamp.get("text", ""))]
    shown = stamp.get("text", "") if stamp else ""
    return [(PromptRow(row), shown and f"{shown} ...") for row in rows]


def _norm(rows: Tensor) -> float:
    return float(rows.double().square().sum())


def label_of(texts: Sequence[str]) -> str:
    """What to show of the rows of one conditioning."""
    return " | ".join(dict.fromkeys(text for text in texts if text)) or "text from elsewhere"

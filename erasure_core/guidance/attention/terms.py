"""Attention-space terms: a method, the texts it steers away from, how strongly, when, and in which rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import BadInput
from ...gates import Always, Gate, PromptRow, check_readable, make_gate
from ...models import EditableModel, Encoded
from ...options import explain_options, read_options
from ...prompts import CHUNK, parse_weights
from ..progress import Window
from . import adavd, nag, vsf

METHODS: Mapping[str, ModuleType] = {module.NAME: module for module in (nag, vsf, adavd)}
ROWS = ("auto", "cond", "all")
_ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class AttentionTerm:
    """One method at work.

    ``texts``: the negatives or concepts, each [b, L, d] rows of the text as the method reads them, b = 1 or one text
    for each picture of the batch. ``strength`` scales the change that the method makes: 0 is off to the last bit, 1 as
    published. ``rows``: "cond" leaves the negative half of guided sampling alone, "all" does not. ``gate``: for which
    prompts it acts, by itself for all; ``others``: the share of its strength, 0..1, that also acts on prompts whose
    gate is closed.
    """

    schema: ClassVar[str] = "membrane/1"

    name: str
    texts: tuple[Tensor, ...]
    settings: Any
    strength: float = 1.0
    window: Window = field(default_factory=Window)
    rows: str = "cond"
    gate: Gate = field(default_factory=Always)
    others: float = 0.0

    @property
    def method(self) -> ModuleType:
        """The module that holds the formula."""
        return METHODS[self.name]

    @property
    def edits_values(self) -> bool:
        """Whether it changes the values of the text rather than what attention brings."""
        return self.name == adavd.NAME

    def openness(self, prompts: Sequence[PromptRow], negative: Tensor) -> Tensor:
        """[R] strength times gate for the rows of a batch; ``negative`` [R] says which are the negative half."""
        acting = [bool(self.texts) and not (self.rows == "cond" and other) for other in negative.tolist()]
        found = [self.gate(prompt).gain if on else 0.0 for prompt, on in zip(prompts, acting, strict=True)]
        shares = [max(gain, self.others) if on else 0.0 for gain, on in zip(found, acting, strict=True)]
        return self.strength * torch.tensor(shares)


def attention_negative(
    model: EditableModel,
    texts: str | Sequence[str],
    method: str = "vsf",
    strength: float = 1.0,
    window: Window | None = None,
    rows: str = "auto",
    gate: str = "auto",
    preserve: Sequence[str] = (),
    others: float | None = None,
    **options: Any,
) -> AttentionTerm:
    """The term that keeps ``texts`` (one negative prompt, or phrases) out of pictures; put it in force with ``steer``.

    ``method``: "nag", "vsf" or "adavd"; ``options`` are its settings. ``window``: when it acts, by itself always.
    ``rows``: "auto" is what the method's authors do. ``gate``: one of ``gates.GATES``; all but "always" tell prompts
    that are about ``texts`` from others, on which only ``others`` of the strength acts, and ``preserve`` are phrases
    that must not open it. Left to themselves they are the method's: VSF acts in full where a prompt names one of the
    ``texts`` and with 0.4 elsewhere, the others in full everywhere. ``gate="always"`` is as published.

    Raises BadInput for anything that cannot be used.
    """
    settings = settings_of(method, options)
    given = [texts] if isinstance(texts, str) else list(texts)
    encoded = model.encode(given) if given else None
    taken = (
        [] if encoded is None else [text_rows(encoded, i, selection_of(method, settings)) for i in range(len(given))]
    )
    opener, share = opening(method, gate, others, given, preserve, model)
    return make_term(method, [own for own in taken if own.shape[1]], settings, strength, window, rows, opener, share)


def make_term(
    method: str,
    texts: Sequence[Tensor],
    settings: Any,
    strength: float = 1.0,
    window: Window | None = None,
    rows: str = "auto",
    gate: Gate | None = None,
    others: float = 0.0,
) -> AttentionTerm:
    """A term from rows [b, L, d] that are encoded and selected already."""
    if not isinstance(strength, int | float) or not math.isfinite(strength):
        raise BadInput(f"The strength of an attention negative is a number like 1 or 0.5, not {strength!r}.")
    if rows not in ROWS:
        raise BadInput(f"rows is one of {', '.join(ROWS)}, not {rows!r}.")
    where = METHODS[method].ROWS if rows == "auto" else rows
    if not isinstance(others, int | float) or not 0 <= others <= 1:
        raise BadInput(f"others is the share of the strength for other prompts, 0 to 1, not {others!r}.")
    span, opener = window or Window(), gate or Always()
    return AttentionTerm(method, tuple(texts), settings, float(strength), span, where, opener, float(others))


def opening(
    method: str,
    gate: str,
    others: float | None,
    texts: Sequence[str],
    preserve: Sequence[str],
    model: EditableModel | None,
) -> tuple[Gate, float]:
    """The gate for negative ``texts``, and the share of the strength that acts where it is closed.

    "auto" is the method's own; it is "always" where there are no words to look for, or this encoder's cannot be read.
    Raises BadInput for a gate that is asked for by name and cannot be made.
    """
    module, phrases = METHODS[method], phrases_of(texts)
    kind = module.GATE if gate == "auto" else gate
    if gate == "auto" and kind != "always" and not _readable(phrases, model):
        kind = "always"
    if kind != "always" and (model is None or not phrases):
        raise BadInput("A gate needs words to look for: write them into the text and connect CLIP.")
    own = module.OTHERS if gate == "auto" else 0.0
    return Always() if model is None else make_gate(kind, phrases, preserve, model), own if others is None else others


def phrases_of(texts: Sequence[str]) -> list[str]:
    """What negatives name, one by one: brackets, weights and articles left out, parts between commas apart."""
    plain = ["".join(span.text for span in parse_weights(text)) for text in texts]
    parts = [part.strip() for text in plain for part in text.replace("\n", ",").split(",")]
    return list(dict.fromkeys(found for part in parts if (found := _ARTICLE.sub("", part))))


def _readable(phrases: Sequence[str], model: EditableModel | None) -> bool:
    try:
        if model is not None:
            check_readable(phrases, model)
    except BadInput:
        return False
    return model is not None and bool(phrases)


def settings_of(method: str, options: Mapping[str, Any]) -> Any:
    """Checked settings of a method. Raises BadInput for an unknown method, option or value."""
    if method not in METHODS:
        raise BadInput(f"Unknown attention method '{method}'. Known: {', '.join(METHODS)}.")
    settings = read_options(METHODS[method].Settings, options, method)
    METHODS[method].check(settings)
    return settings


def selection_of(method: str, settings: Any) -> str:
    """Which rows of a negative the method reads: "words", "words+end", "all" or "last"."""
    chosen = getattr(settings, "negative", "auto")
    result: str = METHODS[method].TEXT if chosen == "auto" else chosen
    return result


def text_rows(encoded: Encoded, index: int, selection: str) -> Tensor:
    """Rows [1, L, d] of one prompt: its "words", "words+end" (with the end token), "last" word, or "all" with padding.

    A text without words has none, except for "all".
    """
    own = encoded.extras.get("chunks")
    chunks = encoded.eos.shape[1] if own is None else int(own[index])
    hidden = encoded.hidden[index : index + 1, : chunks * CHUNK]
    if selection == "all":
        return hidden
    ends = [int(end) for end in encoded.eos[index, :chunks]]
    words = [CHUNK * i + p for i, end in enumerate(ends) for p in range(1, end)]
    if not words:
        return hidden[:, :0]
    if selection == "last":
        return hidden[:, words[-1:]]
    ending = [CHUNK * i + end for i, end in enumerate(ends)] if selection == "words+end" else []
    return hidden[:, sorted(words + ending)]


def explain(method: str) -> str:
    """A method for people: what it does, and every setting with its range."""
    settings_of(method, {})
    module = METHODS[method]
    return f"{method}: {module.SUMMARY}\n\nSettings:\n{explain_options(module.Settings)}"

"""When a membrane acts: a gate turns a prompt into an activation between 0 (closed) and 1 (erases fully).

A gate sees one row of a conditioning at a time. Where the prompt's token ids are known it looks for words and is exact;
where only vectors have arrived (conditioning that was concatenated, averaged or made elsewhere) it compares rows and
says "approximate".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .calibration import Calibrated, calibrated, subject_of
from .errors import BadInput
from .likeness import Likeness, measure
from .models import EditableModel
from .naming import Named, Naming
from .prompts import escape
from .reading import Activation, PromptRow, content_ends, content_ids, ends_of, prompt_rows, words_of
from .transport import make_transport
from .words import words_of_ids, words_of_text

__all__ = [
    "GATES",
    "Activation",
    "Always",
    "ByCalibration",
    "ByLikeness",
    "ByWords",
    "Combined",
    "Gate",
    "PromptRow",
    "check_gate",
    "check_readable",
    "choose_gate",
    "content_ends",
    "content_ids",
    "ends_of",
    "make_gate",
    "prompt_rows",
    "words_of",
]
GATES = ("auto", "calibrated", "words", "likeness", "either", "both", "transport", "always")


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
class ByCalibration:
    """Open as far as the text is like the concept, its whole included."""

    calibrated: Calibrated

    def __call__(self, prompt: PromptRow) -> Activation:
        """The larger of what single tokens and whole chunks say."""
        return Activation(self.calibrated(prompt.rows, prompt.ends), "approximate")


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
    likeness: Gate
    both: bool

    def __call__(self, prompt: PromptRow) -> Activation:
        """Exact if the words alone settle it."""
        if prompt.ids is None:
            return self.likeness(prompt)
        named = self.words(prompt)
        if named.gain == (0.0 if self.both else 1.0):
            return named
        like = self.likeness(prompt)
        return Activation(named.gain * like.gain if self.both else like.gain, "approximate")


def check_gate(kind: str, phrases: Sequence[str]) -> None:
    """Raise BadInput for an unknown gate, or one that needs the concept's words where the file stores none."""
    if kind not in GATES:
        raise BadInput(f"A gate is one of {', '.join(GATES)}, not {kind!r}.")
    if kind not in ("auto", "always") and not phrases:
        raise BadInput(
            f"The gate '{kind}' opens when a prompt names the concept, but this file does not say what it erases. "
            "Name it when loading (concept), or use the gate 'always'."
        )


def choose_gate(kind: str, facts: Mapping[str, Any], gated: bool, model: EditableModel) -> tuple[str, str]:
    """The gate that ``kind`` means for an erasure, and if it is "auto", why.

    ``facts``: the erasure's ``gate``; its ``rows`` are "full" for erasures that act on every prompt by design, the
    negative one included (ACE, arXiv 2501.01633; sliders; ESD). ``gated``: whether what is applied can have a gate.
    """
    if kind != "auto":
        return kind, ""
    phrases = [str(phrase) for phrase in facts.get("phrases", ())]
    if facts.get("rows") == "full":
        return "always", "gate 'always': this kind of erasure acts on every prompt by design"
    if not gated:
        return "always", "gate 'always': changes of weights act on every prompt"
    if not phrases:
        return "always", "gate 'always': the file does not say what it erases"
    try:
        check_readable(phrases, model)
    except BadInput:
        return "always", "gate 'always': this text encoder's words cannot be read"
    return "calibrated", "gate 'calibrated': acts on prompts that name or describe what is erased"


def make_gate(
    kind: str,
    phrases: Sequence[str],
    neighbours: Sequence[str],
    model: EditableModel,
    facts: Mapping[str, Any] | None = None,
) -> Gate:
    """The gate ``kind`` for a concept named by ``phrases``; ``neighbours`` are phrases that must not open it.

    Every word counts in any sense: whoever puts one membrane before a prompt means it. ``facts``: the erasure's
    ``gate``, whose stored floors and ceilings the gate "calibrated" uses if they fit.
    """
    check_gate(kind, phrases)
    stated = {"phrases": list(phrases), "neighbours": list(neighbours)} if facts is None else facts
    kind, _ = choose_gate(kind, stated, True, model)
    if kind == "always":
        return Always()
    if kind == "transport":
        return make_transport(phrases, model)
    check_readable(phrases, model)
    like: Gate
    if kind == "calibrated":
        like = ByCalibration(calibrated(model, stated))
    else:
        like = ByLikeness(measure(model, [subject_of(phrases, neighbours)]))
    if kind == "likeness":
        return like
    words = ByWords(Naming([Named(tuple(phrases), sensitivity=1.0)]), like)
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

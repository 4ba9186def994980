"""Making the MODEL that Negative Guidance hands on, from what stands on the node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..erasure_core.concepts import ConceptSet, concept_set
from ..erasure_core.errors import BadInput
from ..erasure_core.guidance import PRESETS, GuidanceTerm, Window, make
from ..erasure_core.guidance.progress import MODES
from ..erasure_core.options import parse_options
from . import host
from .guiding import Entry, Guiding

_SET_ABOVE = ("strength", "mode", "start", "end")  # inputs of their own
_SUM = "sum_limit"


@dataclass(frozen=True)
class Made:
    """A clone with the terms in force, and what to tell of it."""

    model: Any
    receipt: str
    lines: list[list[str]]
    notes: list[str]


def build(
    method: str, concepts: ConceptSet | None, strength: float, mode: str, span: tuple[float, float], options: str
) -> tuple[GuidanceTerm, float]:
    """The term, and kappa for the sum of all nodes' terms. Raises BadInput for what cannot be used.

    ``span``: cuts the window of the mode; infinite kappa is no limit.
    """
    given: dict[str, Any] = dict(parse_options(options))
    for name in _SET_ABOVE:
        if name in given:
            raise BadInput(f"'{name}' has an input of its own on the node. Set it there and leave it out of options.")
    limit = _limit(given.pop(_SUM, None))
    if method not in PRESETS:
        raise BadInput(f"Unknown guidance '{method}'. Known: {', '.join(PRESETS)}.")
    if mode not in MODES:
        raise BadInput(f"Unknown mode '{mode}'. Known: {', '.join(MODES)}.")
    known = {setting.name for setting in fields(PRESETS[method].Settings)}
    start, end = max(MODES[mode][0], span[0]), min(MODES[mode][1], span[1])
    window = {"start": start, "end": max(start, end), "mode": mode}
    own = {name: value for name, value in window.items() if name in known}
    term = make(method, concepts or (), strength=strength, **own, **given)
    if "start" not in known:  # the method has times of its own, which the window cuts
        term = replace(term, window=Window(start, max(start, end)))
    return term, limit


def _limit(value: str | None) -> float:
    try:
        found = math.inf if value is None else float(value)
    except ValueError:
        found = math.nan
    if value is not None and not 0.2 <= found <= 4:
        raise BadInput(f"The option '{_SUM}' cannot be {value!r}. It takes 0.2 to 4, times what guidance itself does.")
    return found


def guide(
    model: Any,
    clip: Any,
    text: str,
    concepts: ConceptSet | None,
    method: str,
    strength: float,
    mode: str,
    span: tuple[float, float],
    options: str,
    node_id: str | None,
) -> Made:
    """The term on a clone of MODEL, beside those of earlier nodes."""
    wanted = [part for part in (concepts, text if _lines(text) else None) if part is not None]
    chosen = concept_set(wanted) if wanted else None
    term, limit = build(method, chosen, strength, mode, span, options)
    names = ", ".join(concept.target for concept in chosen) if chosen else ""
    guided, notes = host.clone(model), []
    earlier: Guiding | None = host.batch_wrapper_of(model)
    texts = dict.fromkeys(wanted for edit in term.edits for wanted in edit.texts)
    if not texts:
        notes.append("there is no concept, so nothing is changed")
    elif strength:
        entry = Entry(term, f"{method}: {names}", {t: host.encoded(clip, t) for t in ("", *texts)}, node_id, limit)
        entries = [*(earlier.entries if earlier else ()), entry]
        _check(entries)
        wrapper = Guiding(entries)
        host.put_batch_wrappers(guided, wrapper, wrapper.around_sampling)
        notes.append(_at_scale_1(term))
    lines = [
        ["method", method],
        ["avoids", names or "nothing"],
        ["acts", f"{_window(method, term, mode, span)}, strength {strength:g}"],
        ["texts", f"{len(texts)} more in the batch while it acts"],
    ]
    if earlier:
        lines.append(["beside", f"{len(earlier.entries)} earlier of these nodes, in the same batch"])
    receipt = "\n".join(f"{label}: {line}" for label, line in [*lines, *(["note", note] for note in notes)])
    return Made(guided, receipt, lines, notes)


def _lines(text: str) -> bool:
    return any(line.strip() and not line.strip().startswith("#") for line in text.splitlines())


def _window(method: str, term: GuidanceTerm, mode: str, span: tuple[float, float]) -> str:
    start, end = max(MODES[mode][0], span[0]), min(MODES[mode][1], span[1])
    return f"{start:g} to {end:g} of the run ({mode})" if start < end else "never: start is not before end"


def _at_scale_1(term: GuidanceTerm) -> str:
    """What happens without guidance, where there is usually no second prediction."""
    if term.inactive(1.0):
        return "at cfg 1 it does nothing: use 'negation' there, or Attention Negative, which costs nothing"
    return "at cfg 1 it works, but takes two evaluations more in each step it acts; Attention Negative takes none"


def _check(entries: Sequence[Entry]) -> None:
    """One text is one prediction, so it cannot have been read by two text encoders."""
    first: dict[str, Any] = {}
    for entry in entries:
        for text, found in entry.texts.items():
            if not text:
                continue  # only for guiders without a negative, where any encoder's will do
            rows = [one["cross_attn"] for one in found]
            known = first.setdefault(text, rows)
            if len(known) != len(rows) or not all(map(torch.equal, known, rows)):
                raise BadInput(
                    f"Two Negative Guidance nodes read {text!r} with different text encoders. "
                    "Connect the same CLIP to both."
                )

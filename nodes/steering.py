"""Attention negatives in the host: hooks on cross-attention for one call of the denoiser, gains by row and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.errors import BadInput
from ..erasure_core.gates import Always, PromptRow
from ..erasure_core.guidance import Window
from ..erasure_core.guidance.attention import (
    AttentionTerm,
    Call,
    attached,
    cross_attention,
    make_term,
    opening,
    repeats_of,
    selection_of,
    settings_of,
    text_rows,
)
from ..erasure_core.models import Encoded
from ..erasure_core.options import parse_options
from . import host, stamp
from .model import HostModel
from .wrapper import NEGATIVE

_OWN = ("gate", "others", "rows", "ramp")  # options of the term itself, beside the method's


@dataclass
class Running:
    """One sampling: how far it is, the membranes on the model, and strengths times gates [n] of each conditioning's
    rows, by uuid."""

    progress: Callable[[Mapping[str, Any]], float]
    membranes: Any | None = None
    openness: dict[Any, Tensor] = field(default_factory=dict)


class Steer:
    """A term around the denoiser. It holds no state of a sampling and may be shared by any number of clones."""

    def __init__(self, term: AttentionTerm, node_id: str | None) -> None:
        self._term = term
        self.key = f"{host.KEY}.attention.{node_id}"

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Once per sampling: judge every text."""
        guider = host.guider_of(executor)
        run = Running(host.clock_of(guider), host.wrapper_of(guider.model_patcher))
        for role, ident, rows, words in host.conditionings(guider):
            prompts = [prompt for prompt, _ in stamp.read(words, rows)]
            run.openness[ident] = self._term.openness(prompts, torch.full((len(rows),), NEGATIVE in role))
        with host.running(guider, run, self.key):
            return executor(*args, **kwargs)

    def __call__(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Any,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One call of the denoiser: ``x`` [chunks B, c, h, w], ``context`` [chunks B, T, d]."""
        options = transformer_options or {}
        call = None if context is None else self._call(context, options)
        if call is None or not call.gains.any():
            return executor(x, timesteps, context, y, control, options, *args, **kwargs)
        with attached(cross_attention(host.denoiser_of(executor)), [self._mapped(options)], call):
            return executor(x, timesteps, context, y, control, options, *args, **kwargs)

    def _mapped(self, options: Mapping[str, Any]) -> AttentionTerm:
        """The term, its texts under the membranes that also act on negatives."""
        membranes, acting = options[self.key].membranes, host.chunks_of(options, host.KEY)[2]
        if membranes is None:
            return self._term
        return replace(self._term, texts=tuple(membranes.on_other_text(text, acting) for text in self._term.texts))

    def _call(self, context: Tensor, options: Mapping[str, Any]) -> Call | None:
        which, uuids, run = host.chunks_of(options, self.key)
        if run is None or not which:
            return None
        window = self._term.window.gain(run.progress(options))
        if window == 0:
            return None
        size = len(context) // len(which)
        parts = [self._of(run, uuids[i], which[i], context[i * size : (i + 1) * size]) for i in range(len(which))]
        picture = torch.arange(size).repeat(len(which))
        return Call(window * torch.cat(parts)[None], picture, repeats_of(context), context.shape[1])

    def _of(self, run: Running, ident: Any, index: int, rows: Tensor) -> Tensor:
        """[n] of one chunk; a text that joined later, from another pack, is judged by its vectors."""
        if ident not in run.openness:
            prompts = [PromptRow(row) for row in rows]
            return self._term.openness(prompts, torch.full((len(rows),), index == 1))
        own = run.openness[ident]
        return own[torch.arange(len(rows)) % len(own)]  # as the host repeats a conditioning over a batch


@dataclass(frozen=True)
class Made:
    """A clone with the term in force, and what to tell of it."""

    model: Any
    receipt: str
    lines: list[list[str]]
    notes: list[str]


def steer(
    model: Any,
    method: str,
    text: str,
    strength: float,
    window: tuple[float, float],
    options: str,
    clip: Any,
    negative: Any,
    node_id: str | None,
) -> Made:
    """The term on a clone of MODEL. Raises BadInput for anything that cannot be used."""
    settings, own = read(method, options)
    phrases = [line.strip() for line in text.splitlines() if line.strip()]
    selection, notes = selection_of(method, settings), []
    texts = _phrases(model, clip, phrases, selection, node_id)
    given, unknown = _conditioning(negative, selection)
    if unknown:
        notes.append(
            "the words of the connected negative are not known, so its padding takes part; write it into the node's "
            "text, or encode it with the CLIP of a Membrane node"
        )
    layers = cross_attention(host.network_of(model))
    width = next(iter(layers.values())).to_k.weight.shape[-1] if layers else 0
    for rows in (*texts, *given):
        if rows.shape[2] != width:
            raise BadInput(
                f"The negative has vectors of width {rows.shape[2]}, this model reads {width}. Encode it with the text "
                "encoder of the same checkpoint."
            )
    if not texts and not given:
        raise BadInput("There is nothing to avoid: write it into the text and connect CLIP, or connect a negative.")
    reader = HostModel(model, clip, node_id) if phrases else None
    gate, others = opening(method, own.get("gate", "auto"), _number(own, "others"), phrases, (), reader)
    span = Window(*window, _number(own, "ramp") or 0.0)
    term = make_term(method, [*texts, *given], settings, strength, span, own.get("rows", "auto"), gate, others)
    steered = host.clone(model)
    if strength != 0:
        wrapper = Steer(term, node_id)
        host.put_wrappers(steered, wrapper, wrapper.around_sampling, wrapper.key)
    everywhere = isinstance(gate, Always) or others == 1
    lines = [
        ["method", method],
        ["avoids", ", ".join(phrases) + ("" if not given else " + connected negative")],
        ["layers", f"{len(layers)} of cross-attention"],
        ["acts", f"{window[0]:g} to {window[1]:g} of the run, strength {strength:g}, rows {term.rows}"],
        ["on", "every prompt" if everywhere else f"prompts that name it; {others:g} of it on others"],
    ]
    receipt = "\n".join(f"{label}: {line}" for label, line in [*lines, *(["note", note] for note in notes)])
    return Made(steered, receipt, lines, notes)


def read(method: str, options: str) -> tuple[Any, dict[str, str]]:
    """Settings of the method, and those of the term itself. Raises BadInput for what neither knows."""
    given = parse_options(options)
    own = {name: given.pop(name) for name in _OWN if name in given}
    settings = settings_of(method, given)
    Window(0.0, 1.0, _number(own, "ramp") or 0.0)
    make_term(method, [], settings, 1.0, None, own.get("rows", "auto"), None, _number(own, "others") or 0.0)
    return settings, own


def _number(own: Mapping[str, str], name: str) -> float | None:
    """An option of the term itself; None if it is left out."""
    try:
        return float(own[name]) if name in own else None
    except ValueError:
        raise BadInput(f"The option '{name}' cannot be {own[name]!r}. It takes 0 to 1.") from None


def _phrases(model: Any, clip: Any, phrases: Sequence[str], selection: str, node_id: str | None) -> list[Tensor]:
    if not phrases:
        return []
    if clip is None:
        raise BadInput("Text can only be read with a text encoder: connect CLIP.")
    encoded = HostModel(model, clip, node_id).encode(list(phrases))
    found = [text_rows(encoded, i, selection) for i in range(len(phrases))]
    return [rows for rows in found if rows.shape[1]]


def _conditioning(negative: Any, selection: str) -> tuple[list[Tensor], bool]:
    """Rows of every entry of a CONDITIONING, and whether the words of any are not known."""
    found, unknown = [], False
    for rows, extra in negative or ():
        prompts = stamp.read(extra.get(host.STAMP), rows)
        whole = rows.detach().float().cpu()
        if selection == "all" or prompts[0][0].ids is None:
            unknown = unknown or selection != "all"
            found.append(whole)
            continue
        ids = torch.tensor(extra[host.STAMP]["ids"])
        ends = torch.tensor([[chunk.index(stamp.END) for chunk in ids.tolist()]])
        kept = text_rows(Encoded(whole, {}, ends), 0, selection)
        found += [kept] if kept.shape[1] else []
    return found, unknown

"""One guidance term: direction, projection, mask, gate, momentum, limiter, injection.

Classifier-free guidance is q_u + w c with c = q_cond - q_u. A term adds rho Lim(gamma), where

    gamma = sum over its edits of  weight gain mask * projection(direction)   + momentum

and rho is w, 1 or w - 1. Published methods are choices of these stages (:mod:`.presets`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import BadInput
from .directions import Direction, Null
from .gates import Gate, Open
from .limits import limited
from .masks import Everywhere, Mask
from .momentum import Momentum
from .predictions import Predictions, flat, spread
from .progress import Moment, Window
from .projections import Projection, Whole
from .state import State

INJECTIONS = ("cfg", "absolute", "replace")
_GATHERED = "momentum"


@dataclass(frozen=True)
class Edit:
    """One text of a term: which way, which part, where, how strongly, when.

    ``weight``: below 0 pushes away from ``text``, above 0 towards it. Outside ``window`` it changes nothing.
    """

    text: str
    weight: float = -1.0
    direction: Direction = field(default_factory=Null)
    projection: Projection = field(default_factory=Whole)
    mask: Mask = field(default_factory=Everywhere)
    gate: Gate = field(default_factory=Open)
    window: Window = field(default_factory=Window)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text whose prediction it reads."""
        return (*self.direction.texts(self.text), *self.projection.texts)

    @property
    def uncond(self) -> bool:
        """Whether it reads the unconditional, also without guidance."""
        return self.direction.uncond or self.projection.uncond or self.gate.uncond


@dataclass(frozen=True)
class EditTrace:
    """What an edit did to each sample: ``gain`` [B], ``density`` [B] = mean mask, 0..1."""

    text: str
    gain: Tensor
    density: Tensor


@dataclass(frozen=True)
class Trace:
    """What a term did in one evaluation. ``share`` [B]: its size over that of w c (both Euclidean norms)."""

    term: str
    at: Moment
    share: Tensor
    edits: tuple[EditTrace, ...]


@dataclass(frozen=True)
class Needs:
    """What one evaluation has to predict beside the prompt.

    ``stand_in``: a text to evaluate in the place of the unconditional, which then costs nothing.
    """

    uncond: bool = False
    texts: tuple[str, ...] = ()
    stand_in: str | None = None


@dataclass(frozen=True)
class GuidanceTerm:
    """A guidance method with its texts and settings; immutable, so one object can serve many runs at once.

    ``injection``: what gamma is multiplied with: "cfg" the guidance scale, "absolute" 1, "replace" the scale minus 1,
    as a negative prompt in the place of the empty one does. ``scale``: a number instead. ``window``: outside it
    nothing happens at all. ``gather``: momentum grows inside it also before the edits' own windows begin, which has to
    be evaluated; momentum is added once the last of them has begun. ``limit``: kappa of :func:`.limits.limited`.
    ``strength`` multiplies the whole; 0, or no edits, is off: nothing is evaluated and nothing is changed.
    """

    name: str
    edits: tuple[Edit, ...]
    injection: str = "cfg"
    scale: float | None = None
    momentum: Momentum = field(default_factory=Momentum)
    gather: bool = False
    window: Window = field(default_factory=Window)
    limit: float = math.inf
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.injection not in INJECTIONS:
            raise BadInput(f"A term is added as one of {', '.join(INJECTIONS)}, not {self.injection!r}.")
        numbers = [self.strength, *(edit.weight for edit in self.edits), *([] if self.scale is None else [self.scale])]
        if not all(map(math.isfinite, numbers)):
            raise BadInput(f"Strength, scale and weights of the guidance '{self.name}' must be finite numbers.")

    def factor(self, cfg: float) -> float:
        """rho times the strength, at guidance scale ``cfg``."""
        own = {"cfg": cfg, "absolute": 1.0, "replace": cfg - 1}[self.injection]
        return self.strength * (own if self.scale is None else self.scale)

    def inactive(self, cfg: float) -> str:
        """Why a term that is not off does nothing at this guidance scale, in one sentence; empty if it acts."""
        if not self.strength or not self.edits or self.factor(cfg):
            return ""
        return (
            f"The guidance '{self.name}' stands in the place of the empty prompt, which is not used at guidance scale "
            f"(cfg) {cfg:g}, so it does nothing. Use a scale above 1, or 'negation'."
        )

    def _on(self, at: Moment, cfg: float) -> bool:
        return bool(self.factor(cfg)) and self.window.gain(at.progress) > 0

    def awake(self, state: State, at: Moment, cfg: float) -> tuple[int, ...]:
        """Which edits have to be evaluated at this moment; ``state`` has entered it."""
        if not self._on(at, cfg):
            return ()
        return tuple(
            i
            for i, edit in enumerate(self.edits)
            if edit.weight
            and (edit.window.gain(at.progress) > 0 or self._gathers(edit, at))
            and edit.gate.awake(state.memory.get(i), at)
        )

    def _gathers(self, edit: Edit, at: Moment) -> bool:
        return self.gather and bool(self.momentum) and at.progress < edit.window.start < edit.window.end

    def needs(self, state: State, at: Moment, cfg: float) -> Needs:
        """What has to be predicted for this term now."""
        awake = [self.edits[i] for i in self.awake(state, at, cfg)]
        texts = dict.fromkeys(text for edit in awake for text in edit.texts)
        limits = self.limit < math.inf and self.acts(state, at, cfg)
        return Needs(limits or any(edit.uncond for edit in awake), tuple(texts))

    def acts(self, state: State, at: Moment, cfg: float) -> bool:
        """Whether it may change anything now: an edit is awake, or momentum is left to be used up."""
        return bool(self.awake(state, at, cfg)) or (self._on(at, cfg) and _GATHERED in state.memory)

    def replaces(self, state: State, at: Moment, cfg: float) -> str | None:
        """The text that this term merely puts in the place of the unconditional at this moment, if it does no more."""
        if self.injection != "replace" or self.scale is not None or self.strength != 1 or self.limit < math.inf:
            return None
        if len(self.edits) != 1 or not self.awake(state, at, cfg):
            return None
        edit = self.edits[0]
        plain = (edit.direction, edit.projection, edit.mask, edit.gate) == (Null(), Whole(), Everywhere(), Open())
        whole = edit.window.gain(at.progress) * self.window.gain(at.progress) == 1
        return edit.text if plain and whole and edit.weight == -1 else None

    def change(self, state: State, predictions: Predictions, traces: list[Trace] | None = None) -> Tensor | None:
        """Lim(rho gamma) in score units [B, ...], remembering in ``state``; None where the term does nothing.

        ``traces``: what it did is appended there.
        """
        at = predictions.at
        if not self.acts(state, at, predictions.cfg):
            return None
        awake = self.awake(state, at, predictions.cfg)
        seen: list[EditTrace] | None = None if traces is None else []
        parts = {i: self._edit(i, state.memory, predictions, seen) for i in awake}
        gamma = _sum(parts.values())
        if self.momentum:
            gamma = self._with_momentum(parts, gamma, state, at)
        if gamma is None:
            return None
        change = limited(self.factor(predictions.cfg) * self.window.gain(at.progress) * gamma, predictions, self.limit)
        if traces is not None:
            traces.append(Trace(self.name, at, _share(change, predictions), tuple(seen or ())))
        return change

    def _with_momentum(self, parts: dict[int, Tensor], gamma: Tensor | None, state: State, at: Moment) -> Tensor | None:
        """Gamma with what was gathered; before the last edit has begun those that have, without."""
        gathered: Tensor | None = state.memory.get(_GATHERED)
        begun = all(at.progress >= edit.window.start - 1e-6 for edit in self.edits if edit.weight)
        if gamma is None:
            if gathered is None:
                return None
            gamma = torch.zeros_like(gathered)
        full, state.memory[_GATHERED] = self.momentum(gamma, gathered, add=begun or self.gather)
        if begun:
            return full
        return _sum(part for i, part in parts.items() if self.edits[i].window.gain(at.progress) > 0)

    def _edit(
        self, index: int, memory: dict[Hashable, object], predictions: Predictions, seen: list[EditTrace] | None
    ) -> Tensor:
        """One edit's part of gamma."""
        edit = self.edits[index]
        direction = edit.direction(predictions, edit.text)
        gain, memory[index] = edit.gate(memory.get(index), predictions, edit.text, direction)
        gain = gain * (edit.window.gain(predictions.at.progress) or 1.0)  # what is only gathered counts in full
        mask = edit.mask(direction, predictions, edit.text)
        if seen is not None:
            density = flat(mask).mean(1) if isinstance(mask, Tensor) else gain.new_full((len(gain),), mask)
            seen.append(EditTrace(edit.text, gain, density))
        return spread(edit.weight * gain, direction) * (mask * edit.projection(direction, predictions))

    def step(self, state: State, predictions: Predictions) -> Tensor:
        """The guided prediction [B, ...] of this one term, raw as the predictions and of their dtype."""
        from .compose import add

        state.enter(predictions.at.sigma, predictions.x.shape)
        change = self.change(state, predictions)
        return add(predictions, [] if change is None else [change])


def _sum(parts: Iterable[Tensor]) -> Tensor | None:
    total: Tensor | None = None
    for part in parts:
        total = part if total is None else total + part
    return total


def _share(change: Tensor, predictions: Predictions) -> Tensor:
    size = torch.linalg.vector_norm(flat(change), dim=1)
    if predictions.uncond is None:
        return torch.full_like(size, math.inf)
    own = predictions.cfg * torch.linalg.vector_norm(flat(predictions.prompt), dim=1)
    return size / own.clamp_min(1e-12)

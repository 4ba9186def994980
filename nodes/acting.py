"""Membranes at work in the host: maps on the text of every call of the denoiser, gains by row, shown on the node."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.acting import Action, Stacks, on_negative, strongest
from ..erasure_core.chain import Chain, Hooks
from ..erasure_core.erasure import POOLED_SPACE
from ..erasure_core.keys.text import Slot
from ..erasure_core.reading import Activation, PromptRow, least_certain
from . import host, stamp
from .wrapper import NEGATIVE, Names, TextWrapper, repeated

EVENT = "membrane.gains"


@dataclass(frozen=True)
class Entry:
    """One membrane, the rows it acts on ("cond" or "all"), and the node that shows it."""

    action: Action
    rows: str
    node_id: str | None


@dataclass
class Run:
    """One sampling: what is known of each conditioning, and what was found so far.

    ``times``: uuid -> noise levels between which a conditioning is used; ``windows`` the same of each membrane.
    ``own``: gains [n, membranes] by uuid, of every prompt as if it were a positive one. ``acting``: 1 for each membrane
    that acts at this step. ``sigma``: the noise level of this step. ``hooks``: on each copy of the denoiser.
    """

    known: Mapping[Any, tuple[str, Tensor, Mapping[str, Any] | None]]
    times: Mapping[Any, tuple[float, float]]
    windows: Sequence[tuple[float, float]]
    acting: Tensor
    sigma: float | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    own: dict[Any, Tensor] = field(default_factory=dict)
    hooks: dict[int, Hooks] = field(default_factory=dict)

    @cached_property
    def names(self) -> Names:
        """Which conditioning a chunk of a call is."""
        return Names({ident: (role, rows) for ident, (role, rows, _) in self.known.items()})


class Membranes(TextWrapper):
    """Membranes of fixed maps and changes; gains are what each membrane does to a row.

    ``where``: the host's weight of every canonical layer that is changed.
    """

    def __init__(self, entries: Sequence[Entry], where: Mapping[str, Slot]) -> None:
        self.entries = tuple(entries)
        self.where = dict(where)
        self.panels: dict[str | None, Mapping[str, Any]] = {}  # node -> what it shows besides, filled as it is made
        self._actions = [entry.action for entry in entries]
        self._stacks = Stacks(self._actions)
        self._chain = Chain(self._actions)
        self._on_all = torch.tensor([entry.rows == "all" for entry in entries])
        self._scheduled = any(action.window != (0.0, 1.0) for action in self._actions)

    def begin(self, guider: Any) -> Run:
        """Remember the words of every conditioning, and when it is used."""
        return Run(
            {ident: (role, rows, words) for role, ident, rows, words in host.conditionings(guider)},
            host.times(guider),
            [host.noise_between(guider, *action.window) for action in self._actions],
            torch.ones(len(self.entries)),
        )

    def at_step(self, options: Mapping[str, Any], run: Run | None) -> None:
        """Which membranes act at this noise level; read only where that matters, since it makes a GPU wait."""
        if run is not None and (self._scheduled or (self._chain.layers and run.times)):
            run.sigma = host.noise_now(options)
            sigma = run.sigma
            run.acting = torch.tensor([float(sigma is None or low <= sigma <= high) for high, low in run.windows])

    def finish(self, run: Run) -> None:
        """Take every hook off."""
        for hooks in run.hooks.values():
            hooks.remove()
        run.hooks.clear()

    @contextmanager
    def on_layers(self, model: Any, batch: Sequence[tuple[int, Any, Tensor]], run: Run | None) -> Iterator[None]:
        """Changes of weights for one call, each chunk of the batch by its own gains."""
        if not self._chain.layers:
            yield
            return
        gains = self._of_layers(batch, run)
        if not gains.any():
            yield
            return
        hooks = run.hooks.get(id(model)) if run is not None else None
        if hooks is None:
            hooks = Hooks(self._chain, host.places(model, self.where, self._chain.layers))
            if run is not None:
                run.hooks[id(model)] = hooks
        try:
            hooks.begin(gains)
            yield
        finally:
            hooks.end()
            if run is None:
                hooks.remove()

    def _of_layers(self, batch: Sequence[tuple[int, Any, Tensor]], run: Run | None) -> Tensor:
        """Gains [R, membranes] for changes of layers: the negative's rows follow the positive prompts used now."""
        size = len(batch[0][2])
        if run is not None:
            batch = [(index, run.names(index, ident, rows), rows) for index, ident, rows in batch]
        own = [repeated(self._own(ident, rows, run), size) for _, ident, rows in batch]
        negative = [self._is_negative(index, ident, run) for index, ident, _ in batch]
        if run is None:
            positive = [gains for gains, is_negative in zip(own, negative, strict=True) if not is_negative]
        else:
            used = [
                ident for ident, (role, _, _) in run.known.items() if NEGATIVE not in role and self._used(ident, run)
            ]
            positive = [repeated(self._own(ident, run.known[ident][1], run), size) for ident in used]
        strongest_now = strongest(torch.stack(positive)) if positive else torch.zeros(size, len(self.entries))
        followed = on_negative(strongest_now, self._actions)
        parts = [
            torch.where(self._on_all, gains, followed) if is_negative else gains
            for gains, is_negative in zip(own, negative, strict=True)
        ]
        return torch.cat(parts) * (1 if run is None else run.acting)

    def _used(self, ident: Any, run: Run) -> bool:
        high, low = run.times.get(ident, (math.inf, 0.0))
        return run.sigma is None or low <= run.sigma <= high

    def _is_negative(self, index: int, ident: Any, run: Run | None) -> bool:
        known = None if run is None else run.known.get(ident)
        return index == 1 if known is None else NEGATIVE in known[0]

    def mapped(self, rows: Tensor, gains: Tensor, run: Run | None) -> Tensor:
        """Every map of the text, added up."""
        for space in self._stacks.spaces:
            if space != POOLED_SPACE:
                rows = self._stacks.apply(space, rows, gains)
        return rows

    def pooled(self, y: Tensor, gains: Tensor, run: Run | None) -> Tensor:
        """Every map of the pooled vector, added up."""
        width = self._stacks.width(POOLED_SPACE)
        if width is None:
            return y
        return torch.cat([self._stacks.apply(POOLED_SPACE, y[:, :width], gains), y[:, width:]], dim=1)

    def gains(self, index: int, ident: Any, rows: Tensor, run: Run | None) -> Tensor:
        """Gains [n, membranes] on the text of one conditioning, n its own rows; found once per sampling."""
        ident = ident if run is None else run.names(index, ident, rows)
        own = self._own(ident, rows, run)
        if self._is_negative(index, ident, run):
            own = own * self._on_all
        return own if run is None else own * run.acting

    def _own(self, ident: Any, rows: Tensor, run: Run | None) -> Tensor:
        known = None if run is None else run.known.get(ident)
        if known is None:
            return self._found([(PromptRow(row), "") for row in rows])[0]
        assert run is not None
        if ident not in run.own:
            role, all_rows, words = known
            prompts = stamp.read(words, all_rows)
            run.own[ident], found = self._found(prompts)
            negative = NEGATIVE in role
            gains = run.own[ident] * self._on_all if negative else run.own[ident]
            self._show(found, gains, negative, stamp.label_of([text for _, text in prompts]), run, ident)
        return run.own[ident]

    def _found(self, prompts: Sequence[tuple[PromptRow, str]]) -> tuple[Tensor, list[tuple[Activation, ...]]]:
        found = [self._stacks.activations(prompt) for prompt, _ in prompts]
        return torch.tensor([[activation.gain for activation in row] for row in found]), found

    def guess(self, rows: Tensor, run: Run | None) -> Tensor:
        """As for a prompt of which only the vectors are known."""
        gains = self._found([(PromptRow(row), "") for row in rows])[0]
        return gains if run is None else gains * run.acting

    def on_other_text(self, rows: Tensor, run: Run | None) -> Tensor:
        """Negative texts [b, L, d] that do not come through the denoiser's input, under membranes on all rows."""
        gains = self.guess(rows, run) * self._on_all
        return self.mapped(rows, gains, run) if gains.any() else rows

    def _show(
        self, found: Sequence[Sequence[Activation]], gains: Tensor, negative: bool, text: str, run: Run, ident: Any
    ) -> None:
        """Send one event to each node that has a membrane acting on this prompt."""
        for node_id in dict.fromkeys(entry.node_id for entry in self.entries):
            mine = [
                i
                for i, entry in enumerate(self.entries)
                if entry.node_id == node_id and not (negative and entry.rows != "all")
            ]
            if node_id is None or not mine:
                continue
            host.send(
                EVENT,
                {
                    "node_id": str(node_id),
                    "run": run.name,
                    "prompt": str(ident),
                    "text": text,
                    "negative": negative,
                    "membranes": [self.entries[i].action.name for i in mine],
                    "gates": [self.entries[i].action.kind for i in mine],
                    "gains": gains[:, mine].tolist(),
                    "mode": least_certain([row[i].mode for row in found for i in mine]),
                    "panel": self.panels.get(node_id),  # a page that was reloaded has not seen it: the node is cached
                },
            )

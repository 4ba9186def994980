"""Membranes at work in the host: maps on the text of every call of the denoiser, gains by row, shown on the node."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.acting import Action, Stacks
from ..erasure_core.erasure import POOLED_SPACE
from ..erasure_core.gates import Activation, PromptRow
from . import host, stamp

EVENT = "membrane.gains"
NEGATIVE = "negative"  # part of the role of every conditioning that a picture is guided away from


@dataclass(frozen=True)
class Entry:
    """One membrane, the rows it acts on ("cond" or "all"), and the node that shows it."""

    action: Action
    rows: str
    node_id: str | None


@dataclass
class Run:
    """One sampling: what is known of each conditioning, and gains [n, membranes] found so far, by uuid."""

    known: Mapping[Any, tuple[str, Tensor, Mapping[str, Any] | None]]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    gains: dict[Any, Tensor] = field(default_factory=dict)


class MappedText:
    """The wrapper around the denoiser. It holds no state of a sampling and may be shared by any number of clones."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.panels: dict[str | None, Mapping[str, Any]] = {}  # node -> what it shows besides, filled as it is made
        self._stacks = Stacks([entry.action for entry in entries])
        self._on_all = torch.tensor([entry.rows == "all" for entry in entries])

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Once per sampling: remember the words of every conditioning."""
        guider = host.guider_of(executor)
        known = {}
        for role, entry in host.conditionings(guider):
            ident, rows, words = host.facts(entry)
            if rows is not None:
                known[ident] = (role, rows, words)
        with host.running(guider, Run(known)):
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
        """One call of the denoiser: ``x`` [chunks B, c, h, w], ``context`` [chunks B, T, d], ``y`` [chunks B, p]."""
        options = transformer_options or {}
        if context is not None:
            gains = self._gains(context, options)
            if gains.any():
                y = self._pooled(y, gains)
            if host.feeds_regions(options):  # also where the prompts themselves open no gate: a region's text may
                options = host.with_last_patch(options, LastPatch(self._map, self._guess, context, gains))
            elif gains.any():
                context = self._map(context, gains)
        return executor(x, timesteps, context, y, control, options, *args, **kwargs)

    def _map(self, rows: Tensor, gains: Tensor) -> Tensor:
        for space in self._stacks.spaces:
            if space != POOLED_SPACE:
                rows = self._stacks.apply(space, rows, gains)
        return rows

    def _pooled(self, y: Tensor | None, gains: Tensor) -> Tensor | None:
        """SDXL's label: the pooled vector first, then the sizes."""
        width = self._stacks.width(POOLED_SPACE)
        if y is None or width is None:
            return y
        return torch.cat([self._stacks.apply(POOLED_SPACE, y[:, :width], gains), y[:, width:]], dim=1)

    def _gains(self, context: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Gains [chunks B, membranes] of one call."""
        which, uuids, run = host.chunks_of(options)
        chunks = len(which) or 1
        size = len(context) // chunks
        parts = []
        for i in range(chunks):
            index, ident = (which[i], uuids[i]) if which else (0, None)
            rows = context[i * size : (i + 1) * size]
            parts.append(_cycle(self._of_chunk(index, ident, rows, run), size))
        return torch.cat(parts)

    def _of_chunk(self, index: int, ident: Any, rows: Tensor, run: Run | None) -> Tensor:
        """Gains [n, membranes] of one conditioning, n its own rows; found once per sampling."""
        known = run.known.get(ident) if isinstance(run, Run) else None
        if known is None:
            return self._found([(PromptRow(row), "") for row in rows], index == 1, None, None)
        if ident not in run.gains:
            role, own, words = known
            run.gains[ident] = self._found(stamp.read(words, own), NEGATIVE in role, run, ident)
        return run.gains[ident]

    def _found(self, prompts: Sequence[tuple[PromptRow, str]], negative: bool, run: Run | None, ident: Any) -> Tensor:
        found = [self._stacks.activations(prompt) for prompt, _ in prompts]
        gains = torch.tensor([[activation.gain for activation in row] for row in found])
        if negative:
            gains = gains * self._on_all
        if run is not None:
            self._show(found, gains, negative, stamp.label_of([text for _, text in prompts]), run, ident)
        return gains

    def _guess(self, rows: Tensor) -> Tensor:
        """Gains of text that another pack made: by the vectors alone, as for a prompt."""
        return self._found([(PromptRow(row), "") for row in rows], False, None, None)

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
                    "gains": gains[:, mine].tolist(),
                    "mode": _mode([row[i].mode for row in found for i in mine]),
                    "panel": self.panels.get(node_id),  # a page that was reloaded has not seen it: the node is cached
                },
            )


class LastPatch:
    """The map as the last patch on the text inside cross-attention, for one call of the denoiser.

    Packs that couple regions put their own texts there, in an order of their own. A row that equals one of the
    denoiser's input has its gain; any other is judged by its vectors.
    """

    def __init__(
        self,
        mapping: Callable[[Tensor, Tensor], Tensor],
        guess: Callable[[Tensor], Tensor],
        context: Tensor,
        gains: Tensor,
    ) -> None:
        self._map, self._guess, self._context, self._gains = mapping, guess, context, gains
        self._last: tuple[Tensor, Tensor] | None = None  # the other packs' text is mostly the same in every layer

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        """``n`` [R, hw, c], ``context`` and ``value`` [R, T, d] -> the same with the text mapped."""
        mapped = self._map(context, self._of(context))
        return n, mapped, mapped if value is context else self._map(value, self._of(value))

    def _of(self, rows: Tensor) -> Tensor:
        if rows is self._context:
            return self._gains
        if self._last is None or self._last[0].shape != rows.shape or not torch.equal(self._last[0], rows):
            self._last = (rows, torch.cat([self._of_row(row) for row in rows]))
        return self._last[1]

    def _of_row(self, row: Tensor) -> Tensor:
        for own, gains in zip(self._context, self._gains, strict=True):
            if _alike(own, row):
                return gains[None]
        return self._guess(row[None])


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two texts [T, d] are the same but for how often each is repeated to reach a common length."""
    longest = math.lcm(len(one), len(other))
    return torch.equal(one.repeat(longest // len(one), 1), other.repeat(longest // len(other), 1))


def _cycle(gains: Tensor, size: int) -> Tensor:
    """The rows of a conditioning as the host repeats them over a batch."""
    return gains[torch.arange(size) % len(gains)]


def _mode(modes: Sequence[str]) -> str:
    """The least certain one."""
    return next((mode for mode in ("approximate", "exact") if mode in modes), "constant")

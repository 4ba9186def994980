"""Membranes at work in the host: maps on the text of every call of the denoiser, gains by row, shown on the node."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.acting import Action, Stacks
from ..erasure_core.erasure import POOLED_SPACE
from ..erasure_core.reading import Activation, PromptRow
from . import host, stamp
from .wrapper import NEGATIVE, TextWrapper

EVENT = "membrane.gains"


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


class MappedText(TextWrapper):
    """Membranes of fixed maps; gains are what each membrane does to a row."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.panels: dict[str | None, Mapping[str, Any]] = {}  # node -> what it shows besides, filled as it is made
        self._stacks = Stacks([entry.action for entry in entries])
        self._on_all = torch.tensor([entry.rows == "all" for entry in entries])

    def begin(self, guider: Any) -> Run:
        """Remember the words of every conditioning."""
        return Run({ident: (role, rows, words) for role, ident, rows, words in host.conditionings(guider)})

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
        """Gains [n, membranes] of one conditioning, n its own rows; found once per sampling."""
        known = None if run is None else run.known.get(ident)
        if known is None:
            return self._found([(PromptRow(row), "") for row in rows], index == 1, None, None)
        assert run is not None
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

    def guess(self, rows: Tensor, run: Run | None) -> Tensor:
        """As for a prompt of which only the vectors are known."""
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


def _mode(modes: Sequence[str]) -> str:
    """The least certain one."""
    return next((mode for mode in ("approximate", "exact") if mode in modes), "constant")

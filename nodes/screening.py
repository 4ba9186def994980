"""The firewall at work in the host: every prompt is judged once per sampling, before the denoiser is loaded."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.erasure import POOLED_SPACE, EmbeddingMap
from ..erasure_core.firewall import Firewall, Touch, mapped_context, mapped_pooled
from ..erasure_core.reading import PromptRow
from . import host, stamp
from .acting import EVENT
from .wrapper import NEGATIVE, Names, TextWrapper

Maps = Mapping[str, EmbeddingMap]


@dataclass
class Screening:
    """One sampling: the maps that its texts need, and by uuid the number of the map of each row, 0 for none."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    maps: list[Maps] = field(default_factory=list)
    numbers: dict[Any, Tensor] = field(default_factory=dict)
    names: Names = field(default_factory=lambda: Names({}))
    guessed: list[tuple[Tensor, int]] = field(default_factory=list)

    def number_of(self, maps: Maps | None) -> int:
        """Remember a map; its number from 1, 0 for none."""
        if maps is None:
            return 0
        self.maps.append(maps)
        return len(self.maps)


class Screen(TextWrapper):
    """A policy in force: gains are numbers of the run's maps, one for each row.

    Maps are solved for what a prompt touches, and for nothing else: a sampling whose prompts touch no rule has none.
    The negative prompt is left alone. ``panel`` is what the node shows besides.
    """

    def __init__(self, wall: Firewall, node_id: str | None) -> None:
        self._wall, self._node_id = wall, node_id
        self.key = f"{host.KEY}.firewall.{node_id}"
        self.panel: Mapping[str, Any] | None = None

    def begin(self, guider: Any) -> Screening:
        """Judge every text; the text encoder may be needed for what is touched, so this comes before the denoiser."""
        conditionings = list(host.conditionings(guider))
        run = Screening(names=Names({ident: (role, rows) for role, ident, rows, _ in conditionings}))
        for role, ident, rows, words in conditionings:
            if NEGATIVE in role:
                run.numbers[ident] = torch.zeros(len(rows), 1)
                continue
            prompts = stamp.read(words, rows)
            touched = [self._wall.touched(prompt) for prompt, _ in prompts]
            run.numbers[ident] = torch.tensor([[float(run.number_of(self._wall.map_for(t)))] for t in touched])
            known = all(prompt.ids is not None for prompt, _ in prompts)
            self._show(touched, known, stamp.label_of([text for _, text in prompts]), run, ident)
        return run

    def gains(self, index: int, ident: Any, rows: Tensor, run: Screening | None) -> Tensor:
        """The numbers found at the start; a text that joined later, from another pack, is judged by its vectors."""
        if run is None:
            return torch.zeros(len(rows), 1)
        ident = run.names(index, ident, rows)
        if ident in run.numbers:
            return run.numbers[ident]
        return torch.zeros(len(rows), 1) if index == 1 else self.guess(rows, run)

    def guess(self, rows: Tensor, run: Screening | None) -> Tensor:
        """By vectors alone, if the policy's index is there; each text once, though every step brings it again."""
        if run is None or not self._wall.sees_vectors:
            return torch.zeros(len(rows), 1)
        return torch.tensor([[float(self._guess_of(row, run))] for row in rows])

    def _guess_of(self, row: Tensor, run: Screening) -> int:
        for known, number in run.guessed:
            if known.shape == row.shape and torch.equal(known, row):
                return number
        number = run.number_of(self._wall.map_for(self._wall.touched(PromptRow(row))))
        run.guessed.append((row.clone(), number))
        return number

    def mapped(self, rows: Tensor, gains: Tensor, run: Screening) -> Tensor:
        """Each text by its own map."""
        return self._each(rows, gains, run, mapped_context)

    def pooled(self, y: Tensor, gains: Tensor, run: Screening) -> Tensor:
        """Each label by its own map, where the model family has one for it."""
        width = next((maps[POOLED_SPACE].width for maps in run.maps if POOLED_SPACE in maps), None)
        if width is None:
            return y
        return torch.cat([self._each(y[:, :width], gains, run, mapped_pooled), y[:, width:]], dim=1)

    def _each(self, rows: Tensor, gains: Tensor, run: Screening, change: Any) -> Tensor:
        result = rows
        for number in gains.unique().int().tolist():
            if number:
                mine = (gains[:, 0] == number).to(rows.device)
                result = result.clone() if result is rows else result
                result[mine] = change(rows[mine], run.maps[number - 1])
        return result

    def _show(self, touched: list[list[Touch]], known: bool, text: str, run: Screening, ident: Any) -> None:
        if self._node_id is None:
            return
        rules = sorted({touch.number: touch for found in touched for touch in found}.items())
        gains = [[next((t.activation for t in found if t.number == n), 0.0) for n, _ in rules] for found in touched]
        mode = "exact" if known else "approximate" if self._wall.sees_vectors else "unjudged"
        host.send(
            EVENT,
            {
                "node_id": str(self._node_id),
                "run": run.name,
                "prompt": str(ident),
                "text": text,
                "negative": False,
                "membranes": [touch.rule.concept.target for _, touch in rules],
                "gains": gains,
                "mode": mode,
                "panel": self.panel,
            },
        )

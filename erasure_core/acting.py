"""Maps at work: how the rows of a batch are changed by several membranes at once, each with its own gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .erasure import EmbeddingMap
from .gates import Gate
from .reading import Activation, PromptRow


@dataclass(frozen=True)
class Action:
    """The maps of one membrane by text space, how strongly they act, and when. ``name`` is for people."""

    name: str
    maps: Mapping[str, EmbeddingMap]
    strength: float
    gate: Gate

    def activation(self, prompt: PromptRow) -> Activation:
        """What the gate says, times the strength."""
        found = self.gate(prompt)
        return Activation(found.gain * self.strength, found.mode)


class MapStack:
    """Maps of one text space side by side: ``x + sum_i g_i (T_i - I) x``, the same in any order up to rounding.

    Maps of the usual form ``I + D Y`` are one product, ``x + ((x Y^T) o g) D^T``; computed in float32 at least, because
    solvers give small ``Y`` and large ``D``, which half precision cannot hold.
    """

    def __init__(self, maps: Sequence[EmbeddingMap]) -> None:
        self._maps = tuple(maps)
        self._plain = all(len(m.factors) == 1 and m.factors[0].bias is None for m in maps)
        self._down = torch.cat([m.factors[0].down for m in maps])
        self._up = torch.cat([m.factors[0].up for m in maps], dim=1)
        self._owner = torch.repeat_interleave(torch.arange(len(maps)), torch.tensor([m.factors[0].rank for m in maps]))
        self._moved: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, rows: Tensor, gains: Tensor) -> Tensor:
        """Rows [B, ..., d] with ``gains`` [B, n] of the n maps; rows whose gains are all 0 stay bitwise the same."""
        if not gains.any():
            return rows
        gains = gains.to(rows.device, torch.float32).reshape(len(rows), *[1] * (rows.dim() - 2), -1)
        wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        if self._plain:
            down, up, owner = self._on(rows.device)
            inner = (wide @ down.T.to(wide.dtype)) * gains[..., owner].to(wide.dtype)
            return (wide + inner @ up.T.to(wide.dtype)).to(rows.dtype)
        change = sum(emap(wide, gains[..., i : i + 1].to(wide.dtype)) - wide for i, emap in enumerate(self._maps))
        return (wide + change).to(rows.dtype)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if device not in self._moved:
            self._moved[device] = (self._down.to(device), self._up.to(device), self._owner.to(device))
        return self._moved[device]


class Stacks:
    """The maps of several membranes by text space, in one fixed order of membranes."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = tuple(actions)
        spaces = dict.fromkeys(space for action in actions for space in action.maps)
        self._members = {
            space: torch.tensor([i for i, action in enumerate(actions) if space in action.maps]) for space in spaces
        }
        self._stacks = {
            space: MapStack([action.maps[space] for action in actions if space in action.maps]) for space in spaces
        }

    @property
    def spaces(self) -> tuple[str, ...]:
        """Names of the text spaces that anything acts on."""
        return tuple(self._stacks)

    def width(self, space: str) -> int | None:
        """Width of the vectors of a space; None if nothing acts on it."""
        return next((action.maps[space].width for action in self.actions if space in action.maps), None)

    def activations(self, prompt: PromptRow) -> tuple[Activation, ...]:
        """Of every membrane for one prompt."""
        return tuple(action.activation(prompt) for action in self.actions)

    def apply(self, space: str, rows: Tensor, gains: Tensor) -> Tensor:
        """Rows [B, ..., d] of ``space`` under ``gains`` [B, membranes]; the same object if nothing acts on it."""
        if space not in self._stacks:
            return rows
        return self._stacks[space](rows, gains[:, self._members[space].to(gains.device)])

"""Maps at work: how the rows of a batch are changed by several membranes at once, each with its own gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bottleneck import Bottleneck
from .digest import fixed_order
from .erasure import EmbeddingMap, WeightDelta
from .gates import Gate
from .reading import Activation, PromptRow


@dataclass(frozen=True)
class Action:
    """What one membrane does while the model runs, how strongly, and when. ``name`` is for people.

    ``maps`` act on the text by space, ``deltas`` and ``bottlenecks`` on layers by canonical name. ``full``: on the
    negative prompt's row the layers get the whole strength as soon as the gate is open at all. ``window``: the part of
    the sampling in which it acts, 0 = its start, 1 = its end. ``power`` is that of the gate's gain, and ``mixes`` the
    published chain of SPM (see :class:`~erasure_core.layers.Mixed`). ``kind`` names the gate.
    """

    name: str
    maps: Mapping[str, EmbeddingMap]
    strength: float
    gate: Gate
    deltas: Mapping[str, WeightDelta] = field(default_factory=dict)
    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)
    full: bool = False
    window: tuple[float, float] = (0.0, 1.0)
    power: int = 1
    mixes: bool = False
    kind: str = "always"

    @property
    def on_layers(self) -> bool:
        """Whether it changes layers, and not the text alone."""
        return bool(self.deltas or self.bottlenecks)

    def activation(self, prompt: PromptRow) -> Activation:
        """What the gate says, times the strength."""
        found = self.gate(prompt)
        return Activation(found.gain**self.power * self.strength, found.mode)

    def acts_at(self, progress: float) -> bool:
        """Whether it acts when ``progress`` of the sampling, 0..1, is done."""
        return self.window[0] <= progress <= self.window[1]


def on_negative(positive: Tensor, actions: Sequence[Action]) -> Tensor:
    """Gains [n, membranes] for changes of layers on a negative prompt's rows, from those of the positive prompt's rows.

    The published SPM scripts give both halves of the batch the positive prompt's gain (arXiv 2312.16145), ACE needs its
    whole strength on the negative half (arXiv 2501.01633).
    """
    strengths = positive.new_tensor([action.strength for action in actions])
    full = torch.tensor([action.full for action in actions], dtype=torch.bool)
    return torch.where(full & (positive != 0), strengths, positive)


def strongest(gains: Tensor) -> Tensor:
    """[..., membranes]: of several prompts' gains [n, ..., membranes] the one furthest from 0."""
    return gains.gather(0, gains.abs().argmax(0, keepdim=True))[0]


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
    """The maps of several membranes by text space; how the list was ordered changes nothing, to the last bit."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = tuple(actions)
        self._members: dict[str, Tensor] = {}
        self._stacks: dict[str, MapStack] = {}
        for space in dict.fromkeys(space for action in actions for space in action.maps):
            numbers = [i for i, action in enumerate(actions) if space in action.maps]
            maps = [actions[i].maps[space] for i in numbers]
            order = fixed_order([[t for f in emap.factors for t in (f.down, f.up, f.bias)] for emap in maps])
            self._members[space] = torch.tensor([numbers[i] for i in order])
            self._stacks[space] = MapStack([maps[i] for i in order])

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

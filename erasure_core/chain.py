"""Many membranes of changed weights at once, none of them baked in: each acts by its own gain on each row of a batch.

A chain is fixed; a :class:`Sampling` is one use of it and holds what may be remembered meanwhile. Closed membranes cost
nothing: only the open ones are stacked. Projections that read one input share one product, and what is added to the
keys and values of cross-attention is found once for a text, since the text does not change from step to step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .acting import Action, strongest
from .bottleneck import Bottleneck
from .digest import fixed_order
from .erasure import WeightDelta
from .layers import Bottlenecks, LowRank, Mixed, added, full_change, gated, projected

_SHARED = re.compile(r"^(.*\.attn1)\.to_[qkv]$")
_TOLD_APART_BY = 2  # layers whose tensors tell one membrane from another
_OF_TEXT = re.compile(r"\.attn2\.to_[kv]$")


class Chain:
    """What ``actions`` change while a model runs, by layer: canonical name without ``.weight`` or ``.bias``.

    How the list was ordered changes nothing, to the last bit.
    """

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = tuple(actions)
        self._deltas: dict[str, list[tuple[int, WeightDelta]]] = {}
        self._erasers: dict[str, list[tuple[int, Bottleneck]]] = {}
        for number in fixed_order([_some_tensors(action) for action in actions]):
            action = actions[number]
            for name, delta in action.deltas.items():
                self._deltas.setdefault(name.rpartition(".")[0], []).append((number, delta))
            for name, eraser in action.bottlenecks.items():
                self._erasers.setdefault(f"{name}.to_out.0", []).append((number, eraser))
        self.layers = tuple(dict.fromkeys([*self._deltas, *self._erasers]))

    def changes(self, layer: str, active: Mapping[int, int]) -> Changes | None:
        """What the membranes ``active`` (number -> column of the gains) do to one layer; None if nothing."""
        deltas = [(active[n], self.actions[n], d) for n, d in self._deltas.get(layer, ()) if n in active]
        erasers = [(active[n], eraser) for n, eraser in self._erasers.get(layer, ()) if n in active]
        if not deltas and not erasers:
            return None
        plain = [(i, d) for i, action, d in deltas if d.diff is None and not action.mixes]
        mixed = [(i, d) for i, action, d in deltas if d.diff is None and action.mixes]
        return Changes(
            LowRank.of(plain) if plain else None,
            Mixed.of(mixed) if mixed else None,
            tuple((i, d.name.endswith(".bias"), d.dense()) for i, _, d in deltas if d.diff is not None),
            Bottlenecks.of(erasers) if erasers else None,
        )


def _some_tensors(action: Action) -> list[Tensor | None]:
    """Enough to tell an action from others, and not gigabytes to hash."""
    deltas = [action.deltas[name] for name in sorted(action.deltas)[:_TOLD_APART_BY]]
    erasers = [action.bottlenecks[name] for name in sorted(action.bottlenecks)[:_TOLD_APART_BY]]
    return [t for d in deltas for t in (d.down, d.up, d.diff)] + [t for e in erasers for t in (e.down, e.up)]


@dataclass(frozen=True)
class Changes:
    """All that is added to one layer; ``full``: column of the gains, whether it is the bias, and the difference."""

    low: LowRank | None
    mixed: Mixed | None
    full: tuple[tuple[int, bool, Tensor], ...]
    erasers: Bottlenecks | None

    def to(self, like: Tensor) -> Changes:
        """On the device and in the precision of ``like``."""
        return Changes(
            None if self.low is None else self.low.to(like),
            None if self.mixed is None else self.mixed.to(like),
            tuple((column, bias, diff.to(like)) for column, bias, diff in self.full),
            None if self.erasers is None else self.erasers.to(like),
        )

    def besides(self, module: nn.Module, x: Tensor, out: Tensor, gains: Tensor) -> Tensor | None:
        """What is added to ``out`` [B, ...] beside ``low`` under ``gains`` [B, active]; None if nothing."""
        parts = [] if self.mixed is None else [self.mixed(module, x, gains[:, list(self.mixed.owner)])]
        for column, is_bias, diff in self.full:
            change = full_change(module, x, None if is_bias else diff, diff if is_bias else None)
            parts.append(gated(change.expand_as(out), gains[:, [column]]))
        return sum(parts[1:], parts[0]) if parts else None


@dataclass
class _Text:
    """A text [B, T, d], the gains [B, active] it was read with, and what is known of each layer that reads it.

    ``inner``: ``(D x) o g`` [B, T, N], small whatever the layer's width. ``more``: what is added besides it.
    """

    rows: Tensor
    gains: Tensor
    inner: dict[str, Tensor] = field(default_factory=dict)
    more: dict[str, Tensor | None] = field(default_factory=dict)


_TEXTS = 4  # remembered at once: prompt and negative may come in separate calls, and regions bring their own


class Sampling:
    """One use of a chain: :meth:`begin` a call of the model with its gains, then let :meth:`change` see every layer."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._active: dict[int, int] = {}
        self._gains = torch.zeros(0, 0)  # [B, active] of the call
        self._spread: dict[tuple[tuple[int, ...], int, torch.device, torch.dtype], Tensor] = {}
        self._changes: dict[str, Changes | None] = {}
        self._joined: dict[str, tuple[dict[str, int], Tensor]] = {}
        self._shared: tuple[Tensor, dict[str, Tensor]] | None = None
        self._texts: list[_Text] = []
        self._seen: list[tuple[Tensor, _Text]] = []  # inputs of this call that were found equal to a text

    def begin(self, gains: Tensor) -> bool:
        """Start a call whose rows have ``gains`` [B, membranes]; False if every membrane is closed for all of them."""
        numbers = gains.any(dim=0).nonzero().flatten().tolist()
        active = {number: column for column, number in enumerate(numbers)}
        own = gains[:, numbers]
        if active != self._active:
            self._active, self._changes, self._joined, self._texts = active, {}, {}, []
        if not _equal(own, self._gains):
            self._gains, self._spread = own, {}
        return bool(active)

    def end(self) -> None:
        """Let go of what belonged to the call alone."""
        self._shared, self._seen = None, []

    def change(self, layer: str, module: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """The layer's output with all changes: ``x`` [B, ...] went in, ``out`` came out (and may be overwritten).

        Where another pack asks a layer more rows than the batch has, as those do that couple regions, it cannot be told
        whose they are: all of them get the strongest gain.
        """
        changes = self._of(layer, out)
        if changes is None:
            return out
        text = self._text(x) if _OF_TEXT.search(layer) else None
        if changes.low is not None:
            inner = text.inner.get(layer) if text is not None else None
            if inner is None:
                inner = self._inner(layer, module, x, out, changes.low)
                inner = gated(inner, self._columns(changes.low.owner, out))
            if text is not None:
                text.inner[layer] = inner
            out = added(out, inner, changes.low.up)
        if text is not None and layer in text.more:
            more = text.more[layer]
        else:
            more = changes.besides(module, x, out, self._columns(None, out))
        if text is not None:
            text.more[layer] = more
        out = out if more is None else out + more
        return out if changes.erasers is None else out + changes.erasers(out, self._columns(None, out))

    def _of(self, layer: str, like: Tensor) -> Changes | None:
        if layer not in self._changes:
            found = self.chain.changes(layer, self._active)
            self._changes[layer] = None if found is None else found.to(like)
        return self._changes[layer]

    def _text(self, x: Tensor) -> _Text:
        """What is remembered of the text ``x``; all layers of a call get the same object, which is compared once."""
        for seen, text in self._seen:
            if seen is x:
                return text
        found = next((t for t in self._texts if _equal(t.rows, x) and _equal(t.gains, self._gains)), None)
        if found is None:
            found = _Text(x.detach().clone(), self._gains)
            self._texts = [*self._texts[-_TEXTS + 1 :], found]
        self._seen.append((x, found))
        return found

    def _inner(self, layer: str, module: nn.Module, x: Tensor, out: Tensor, low: LowRank) -> Tensor:
        """``D x``; for query, key and value of self-attention of all three at once."""
        found = _SHARED.match(layer)
        if found is None:
            return projected(module, x, low.down)
        if self._shared is None or self._shared[0] is not x:
            sizes, down = self._join(found[1], out)
            parts = projected(module, x, down).split(list(sizes.values()), dim=-1)
            self._shared = (x, dict(zip(sizes, parts, strict=True)))
        return self._shared[1][layer]

    def _join(self, attention: str, like: Tensor) -> tuple[dict[str, int], Tensor]:
        """Number of terms of each projection of a self-attention, and their ``down`` one below the other."""
        if attention not in self._joined:
            layers = [f"{attention}.to_{letter}" for letter in "qkv"]
            lows = {name: c.low for name in layers if (c := self._of(name, like)) is not None and c.low is not None}
            sizes = {name: len(low.owner) for name, low in lows.items()}
            self._joined[attention] = (sizes, torch.cat([low.down for low in lows.values()]))
        return self._joined[attention]

    def _columns(self, owner: tuple[int, ...] | None, like: Tensor) -> Tensor:
        """Gains [B, len(owner)], or of all active membranes."""
        which = tuple(range(self._gains.shape[1])) if owner is None else owner
        key = (which, len(like), like.device, like.dtype)
        if key not in self._spread:
            gains = self._gains[:, list(which)]
            if len(gains) != len(like):
                gains = strongest(gains).expand(len(like), -1)
            self._spread[key] = gains.to(like)
        return self._spread[key]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


@dataclass(frozen=True)
class Place:
    """Where a layer of the canonical name is in a running model: a module, and a part of its outputs if not all.

    ``swapped``: the module gives the second half of the layer's outputs before the first half.
    """

    module: nn.Module
    start: int = 0
    length: int | None = None
    swapped: bool = False


class Hooks:
    """Hooks on a model's layers that do nothing until a call is begun, and take themselves off in the end."""

    def __init__(self, chain: Chain, places: Mapping[str, Place]) -> None:
        self.sampling = Sampling(chain)
        self._open = False
        self._handles = [
            place.module.register_forward_hook(self._hook(layer, place)) for layer, place in places.items()
        ]

    def begin(self, gains: Tensor) -> None:
        """From here on every layer is changed by ``gains`` [B, membranes]; all 0 leaves the model alone."""
        self._open = self.sampling.begin(gains)

    def end(self) -> None:
        """The call is over."""
        self._open = False
        self.sampling.end()

    def remove(self) -> None:
        """Leave no hook behind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, layer: str, place: Place) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            if not self._open:
                return None
            if place.swapped:
                half = out.shape[-1] // 2
                return self.sampling.change(layer, module, args[0], out.roll(half, -1)).roll(half, -1)
            if place.length is None:
                return self.sampling.change(layer, module, args[0], out)
            end = place.start + place.length
            part = self.sampling.change(layer, module, args[0], out[..., place.start : end])
            return torch.cat([out[..., : place.start], part, out[..., end:]], dim=-1)

        return add

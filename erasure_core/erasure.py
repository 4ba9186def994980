"""The result of a method: embedding maps and weight deltas, immutable, with everything needed to make it again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .bottleneck import Bottleneck
from .errors import BadInput, NothingMatched, WrongFamily

POOLED_SPACE = "sdxl_pooled"
TEXT_WEIGHT = "transformer.context_embedder.weight"  # by which Flux reads its text, once for all layers
POOLED_WEIGHT = "unet.add_embedding.linear_1.weight"
_CROSS_ATTENTION = re.compile(r"^unet\..*\.attn2\.to_([kv])\.weight$")


@dataclass(frozen=True)
class MapFactor:
    """One factor ``x -> x + up @ (down @ x) + bias`` of an embedding map.

    ``down`` Y [r, d], ``up`` D [d, r], ``bias`` [d] or None; fp32 on the processor.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        r, d = self.down.shape
        if tuple(self.up.shape) != (d, r) or (self.bias is not None and tuple(self.bias.shape) != (d,)):
            raise BadInput(
                f"A map needs down [r, d] and up [d, r]; got {tuple(self.down.shape)} and {tuple(self.up.shape)}. "
                "The file or the caller mixed up its tensors."
            )

    @property
    def rank(self) -> int:
        """Number of rank-one terms."""
        return self.down.shape[0]


@dataclass(frozen=True)
class EmbeddingMap:
    """``T = I + D Y`` on the rows of one text space, or a product of such factors, first factor applied first."""

    space: str
    factors: tuple[MapFactor, ...]

    @property
    def width(self) -> int:
        """Width d of the text space."""
        return self.factors[0].down.shape[1]

    @property
    def rank(self) -> int:
        """Sum of the factors' ranks."""
        return sum(factor.rank for factor in self.factors)

    def __call__(self, rows: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """Rows [..., d] mapped in their own dtype; ``gain`` is a number or broadcasts against [..., 1]."""
        if isinstance(gain, float | int) and gain == 0:
            return rows  # off is off, to the last bit
        for factor in self.factors:
            change = (rows @ factor.down.T.to(rows)) @ factor.up.T.to(rows)
            if factor.bias is not None:
                change = change + factor.bias.to(rows)
            rows = rows + gain * change
        return rows

    def matrix(self) -> Tensor:
        """``T`` as a dense [d, d] float64 matrix (for checks and reports; biases do not enter)."""
        total = torch.eye(self.width, dtype=torch.float64)
        for factor in self.factors:
            total = total + factor.up.double() @ (factor.down.double() @ total)
        return total

    def linear(self) -> MapFactor:
        """All factors as one bias-free ``I + D Y``: exact, ranks add up."""
        first, *rest = self.factors
        if any(factor.bias is not None for factor in self.factors):
            raise BadInput("This map has a bias, which weights without bias cannot hold. Apply it to the text instead.")
        down, up = first.down.double(), first.up.double()
        for factor in rest:
            fd, fu = factor.down.double(), factor.up.double()
            down, up = torch.cat([down, fd + (fd @ up) @ down]), torch.cat([up, fu], dim=1)
        return MapFactor(down.float(), up.float())

    def scaled(self, strength: float) -> EmbeddingMap:
        """The map with every factor's change multiplied by ``strength``."""
        return EmbeddingMap(
            self.space,
            tuple(
                MapFactor(f.down, f.up * strength, None if f.bias is None else f.bias * strength) for f in self.factors
            ),
        )


@dataclass(frozen=True)
class WeightDelta:
    """``W' = W + scale * up @ down`` (or ``+ scale * diff``) for one named matrix or convolution.

    ``down`` [r, i] or [r, i, kh, kw], ``up`` [o, r] or [o, r, 1, 1]; ``diff`` has the weight's own shape.
    """

    name: str
    down: Tensor | None = None
    up: Tensor | None = None
    diff: Tensor | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if (self.diff is None) == (self.down is None) or (self.down is None) != (self.up is None):
            raise BadInput(f"{self.name}: a delta is either a pair of factors or one full difference.")
        if self.down is not None and self.up is not None and self.down.shape[0] != self.up.shape[1]:
            raise BadInput(f"{self.name}: the factors have ranks {self.up.shape[1]} and {self.down.shape[0]}.")

    @property
    def rank(self) -> int | None:
        """Rank of the factors, None for a full difference."""
        return None if self.down is None else self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight this belongs to."""
        if self.diff is not None:
            return tuple(self.diff.shape)
        assert self.down is not None and self.up is not None
        return (self.up.shape[0], *self.down.shape[1:])

    def dense(self) -> Tensor:
        """The whole change in float32, in the weight's shape."""
        if self.diff is not None:
            return self.diff.float() * self.scale
        assert self.down is not None and self.up is not None
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).reshape(self.shape)

    def scaled(self, strength: float) -> WeightDelta:
        """The same change times ``strength``."""
        return replace(self, scale=self.scale * strength)


@dataclass(frozen=True)
class Erasure:
    """Frozen result of a method for one or more concepts.

    ``maps`` by text space, ``weight_deltas`` by canonical weight name, ``bottlenecks`` by the canonical name of the
    cross-attention they follow. The rest is plain JSON data: ``recipe`` makes it again, ``base`` says what it was made
    on, ``gate`` feeds activation (``rows``: "positive", the positive prompt's gain on both rows, or "full", all of it
    on the negative row whenever open), ``diagnostics`` is what the solver measured.
    ``statistics``: the problem (``solver.EditProblem``) of each space whose solution the maps are, for joining; empty
    where there is no such problem or it was not stored.
    """

    schema: ClassVar[str] = "membrane/1"

    maps: Mapping[str, EmbeddingMap] = field(default_factory=dict)
    weight_deltas: Mapping[str, WeightDelta] = field(default_factory=dict)
    applies: str = "kv"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict, repr=False)
    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.applies not in ("kv", "k", "v"):
            raise BadInput(f"A map applies to 'kv', 'k' or 'v', not {self.applies!r}.")

    @property
    def rank(self) -> int:
        """Rank of the largest part."""
        ranks = [
            part.rank or 0 for parts in (self.maps, self.weight_deltas, self.bottlenecks) for part in parts.values()
        ]
        return max(ranks, default=0)

    def scaled(self, strength: float) -> Erasure:
        """The erasure with every change multiplied by ``strength``."""
        return replace(
            self,
            maps={space: m.scaled(strength) for space, m in self.maps.items()},
            weight_deltas={name: d.scaled(strength) for name, d in self.weight_deltas.items()},
            bottlenecks={name: b.scaled(strength) for name, b in self.bottlenecks.items()},
        )

    def deltas(self, weights: Mapping[str, Tensor]) -> dict[str, WeightDelta]:
        """Everything as weight deltas of a model whose canonical ``weights`` are given.

        A map becomes ``up = W D, down = Y`` for every cross-attention key/value matrix it applies to (exact, because
        the published edit is ``W T`` with one T for all matrices, arXiv 2308.14761);
        the pooled map becomes a delta of the label embedding's first matrix, zero over the size ids.
        """
        result = dict(self.weight_deltas)
        for space, emap in self.maps.items():
            factor = emap.linear()
            made = _pooled_delta(factor, weights) if space == POOLED_SPACE else self._context_deltas(factor, weights)
            if not made:
                raise NothingMatched(
                    f"No weight of this model reads the text space '{space}', so the erasure has nothing to act on. "
                    "It was made for another model family."
                )
            clash = result.keys() & made.keys()
            if clash:
                raise BadInput(f"The erasure changes {sorted(clash)[0]} both by a map and by a delta.")
            result.update(made)
        return result

    def _context_deltas(self, factor: MapFactor, weights: Mapping[str, Tensor]) -> dict[str, WeightDelta]:
        made = {}
        for name in cross_attention_names(weights, self.applies):
            weight = weights[name]
            if weight.shape[1] != factor.down.shape[1]:
                raise WrongFamily(
                    f"The erasure acts on text vectors of width {factor.down.shape[1]}, this model's have width "
                    f"{weight.shape[1]} ({name}). Use the erasure with the model family it was made for."
                )
            made[name] = WeightDelta(name, down=factor.down, up=_product(weight, factor.up))
        return made


def check_deltas(deltas: Iterable[WeightDelta], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise NothingMatched or WrongFamily if a model with weights of these ``shapes`` cannot take every delta."""
    for delta in deltas:
        if delta.name not in shapes:
            raise NothingMatched(f"The model has no weight {delta.name}; the erasure belongs to another model.")
        if delta.shape != tuple(shapes[delta.name]):
            raise WrongFamily(
                f"{delta.name} is {tuple(shapes[delta.name])} in this model but {delta.shape} in the erasure. "
                "Use the erasure with the model family it was made for."
            )


def cross_attention_names(weights: Iterable[str], applies: str = "kv") -> list[str]:
    """Canonical names of the matrices that read text: cross-attention's keys and/or values, in the model's order.

    Flux has one. Raises BadInput if only keys or only values are asked for there.
    """
    if isinstance(weights, Mapping) and TEXT_WEIGHT in weights:
        if applies != "kv":
            raise BadInput(
                "Flux reads its text by one matrix, so that keys and values cannot be changed apart. Erase with a "
                "method and options that change both."
            )
        return [TEXT_WEIGHT]
    found = ((name, _CROSS_ATTENTION.match(name)) for name in weights)
    return [name for name, match in found if match and match.group(1) in applies]


def _pooled_delta(factor: MapFactor, weights: Mapping[str, Tensor]) -> dict[str, WeightDelta]:
    if POOLED_WEIGHT not in weights:
        return {}
    weight = weights[POOLED_WEIGHT]
    rank, width = factor.down.shape
    if weight.shape[1] < width:
        raise WrongFamily(
            f"The pooled map has width {width}, the model's label embedding only {weight.shape[1]} inputs. "
            "Use the erasure with the model family it was made for."
        )
    down = torch.cat([factor.down, factor.down.new_zeros(rank, weight.shape[1] - width)], dim=1)
    return {POOLED_WEIGHT: WeightDelta(POOLED_WEIGHT, down=down, up=_product(weight[:, :width], factor.up))}


def _product(weight: Tensor, up: Tensor) -> Tensor:
    """``W D`` rounded once: terms of alike rows nearly cancel, which would lay bare the errors of a float32 product."""
    return (weight.to("cpu", torch.float64) @ up.to("cpu", torch.float64)).float()

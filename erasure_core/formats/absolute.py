"""Reader of whole new weights (UCE, RECE, MACE, TRCE, SPEED and others): what was changed, as seen from a base.

Such files hold keys and values of the cross-attention (SPEED: values only) or a whole U-Net, by diffusers or LDM names.
The difference to the base becomes one embedding map where that is what it is, else one delta a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..compression import check_rank, low_rank
from ..erasure import EmbeddingMap, Erasure, WeightDelta, cross_attention_names
from ..errors import BadInput, NothingMatched, WrongFamily
from ..keys import FAMILIES, Family, family_of
from ..models import EditableModel
from ..probe import probe
from ..shared_map import Fit, SharedMap
from .base_rule import UNTRAINED, bulk, check_bulk, check_untrained, differs, grain, median
from .files import Header, read_tensors
from .kohya import base_of
from .matching import Matched, canonical_name, match

# Largest misfit of a map, as a share of the change. Measured (benchmarks/results/absolute_weights.json): edits computed
# in float64 and stored in fp32 3e-8 to 5e-7, the published fp32 loops 2e-5 to 3e-3; targets of its own for each matrix
# 0.01 to 0.5, weights of another model 0.64. An edit of a base that is itself off by 0.3 % misfits by 0.017: still
# a map. Rounding to fp16 or bf16 is expected on top (0.03 for one row in bf16), but is no excuse past the cap.
MISFIT, CAP, SLACK = 2e-2, 0.2, 2.0


@dataclass(frozen=True)
class Whole:
    """What a file of whole weights holds: its ``family``, key by canonical name, and the match it came from."""

    family: Family
    keys: Mapping[str, str]
    found: Matched
    modules: int

    @property
    def contents(self) -> str:
        """One line: how many keys, values and others."""
        sides = {side: len(cross_attention_names(self.keys, side)) for side in "kv"}
        rest = len(self.keys) - sides["k"] - sides["v"]
        parts = [f"{sides['k']} keys and {sides['v']} values of the text"] + ([f"{rest} other tensors"] if rest else [])
        return ", ".join(parts)


def names_of(header: Header, families: Sequence[Family] = tuple(FAMILIES.values())) -> Whole:
    """The canonical names in a file, with no tensor read. Raises WrongFamily or NothingMatched if nothing fits."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, shape in header.shapes.items():
        module, _, kind = key.rpartition(".")
        if kind in ("weight", "bias"):
            part = "diff" if kind == "weight" else "bias"
            modules.setdefault(module, {})[part] = torch.empty(shape, device="meta")
    found = match(modules, families, lambda module, rank: 1.0, header.name)
    names = _by_name(header.shapes, found.family)
    return Whole(found.family, {name: names[name] for name in found.deltas}, found, len(modules))


def _by_name(keys: Iterable[str], family: Family) -> dict[str, str]:
    """Canonical name -> key, for the keys that have one."""
    result = {}
    for key in keys:
        module, _, kind = key.rpartition(".")
        name = canonical_name(module, family)
        if name is not None and kind in ("weight", "bias"):
            result[f"{name.removesuffix('weight')}{kind}"] = key
    return result


def needs_base(header: Header) -> str:
    """The sentence for a file that is loaded without a base."""
    try:
        whole = names_of(header)
        what = f" for {whole.family.name} ({whole.contents})"
    except (WrongFamily, NothingMatched):
        what = ""  # a model of unusual size: only the base can tell
    return (
        f"{header.name} holds whole new weights{what}, not what was changed. "
        "Membrane needs the model that it was made from to tell: load(path, base=model), or --base on the command "
        "line. To use it as it is, load it in your host as a model."
    )


def read_absolute(header: Header, base: Any, rank: int | None = None, force: bool = False) -> Erasure:
    """What the file changes in ``base``, a Model or weights by name.

    ``rank``: at most so many terms for the map, or for each delta; by default what the energy calls for. ``force``: go
    on with a base that seems to be the wrong one. Tensors of the file and of the base are read one by one. Raises
    WrongBase, WrongFamily, NothingMatched.
    """
    if rank is not None:
        check_rank(rank)
    weights = base if isinstance(base, Mapping) else base.weights()
    whole = names_of(header, (family_of(weights),))
    source = _Source(header, whole, weights)
    doubt = check_untrained(header, dict(source.pairs(UNTRAINED)), force) if source.complete else ""
    seen = _look(source)
    if not seen.changed:
        raise BadInput(
            f"{header.name} holds the same weights as this base, so it changes nothing. The base may be the edited "
            "model itself; give the one it was made from."
        )
    fit, applies = _shared(source, seen, rank)
    rest = None
    covered = set(cross_attention_names(source.keys, applies)) if fit else set()
    if fit is None and not source.complete:
        rest = median([bulk(new - old, old) for _, (new, old) in source.pairs(_judged(source))])
        doubt = check_bulk(header, rest, force)
    deltas, lost = _deltas(source, [name for name in seen.changed if name not in covered], rank)
    space = whole.family.spaces[0]
    notes = {
        "base_distance": seen.distance,
        "base_bulk": rest,
        "map_residual": fit.residual if fit else seen.misfit,
        "delta_residual": lost if deltas else None,
        "doubt": doubt or None,
    }
    diagnostics: dict[str, Any] = {
        "imported": {key: _round(value) for key, value in notes.items() if value is not None},
        **whole.found.notes(whole.modules),
    }
    if fit is not None:
        diagnostics[space] = {"norm": _round(fit.norm), "rank": fit.factor.rank}
    return Erasure(
        maps={} if fit is None else {space: EmbeddingMap(space, (fit.factor,))},
        weight_deltas=deltas,
        applies=applies if fit else "kv",
        recipe={"method": "imported", "concepts": [], "options": {}},
        base={**base_of(whole.family), **_encoder(base, space)},
        diagnostics=diagnostics,
    )


class _Source:
    """Tensors of the file and of the base by canonical name, read one at a time."""

    def __init__(self, header: Header, whole: Whole, weights: Mapping[str, Any]) -> None:
        self.header, self.keys, self.width = header, whole.keys, whole.family.context
        self._weights = weights
        self._names: Mapping[str, str] = _by_name(weights, whole.family)
        self.complete = "unet.conv_in.weight" in self.keys

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """The file's and the base's weight ``name`` in float32, in the base's shape."""
        old = self._weights[self._names[name]] if name in self._names else None
        if not isinstance(old, Tensor):
            raise BadInput(f"The base has no weight {name}. Give the whole model, or all of its weights by name.")
        key = self.keys[name]
        new = read_tensors(self.header, [key])[key]
        return new.float().reshape(old.shape), old.detach().to("cpu", torch.float32)

    def pairs(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
        """The same for those of ``names`` that are in the file."""
        return ((name, self.pair(name)) for name in names if name in self.keys)

    def readers(self, applies: str) -> list[str]:
        """The base's keys and/or values of the cross-attention."""
        return cross_attention_names(self._names, applies)


@dataclass
class _Seen:
    """One pass over the file: names that ``changed``, ``distance`` from the base, and the sums for maps by side."""

    changed: list[str]
    distance: float
    sums: dict[str, SharedMap]
    rounding: float
    misfit: float | None = None


def _look(source: _Source) -> _Seen:
    """Compare everything with the base; sum up keys and values apart, so that a map may be for one of them."""
    changed: list[str] = []
    distances: dict[str, float] = {}
    sums = {side: SharedMap(source.width) for side in "kv"}
    rounding = 0.0
    for name, (new, old) in source.pairs(source.keys):
        if differs(new, old):
            changed.append(name)
        if old.dim() > 1:
            distances[name] = float((new - old).norm() / old.norm().clamp_min(1e-30))
        if cross_attention_names([name]):
            wide = old.double()
            sums[name.removesuffix(".weight")[-1]].add(wide, new.double() - wide)
            rounding += (grain(new) ** 2 + grain(old) ** 2) * float(wide.square().sum())
    return _Seen(changed, median([distances[name] for name in _judged(source)]), sums, rounding)


def _judged(source: _Source) -> list[str]:
    """Matrices whose distance from the base is judged: those of the cross-attention, else all."""
    shapes = source.header.shapes
    return cross_attention_names(source.keys) or [name for name, key in source.keys.items() if len(shapes[key]) > 1]


def _shared(source: _Source, seen: _Seen, rank: int | None) -> tuple[Fit | None, str]:
    """The map of the changed keys and/or values, if all of them are in the file and follow one; and for which it is."""
    applies = "".join(side for side in "kv" if cross_attention_names(seen.changed, side))
    if not applies or not set(source.readers(applies)) <= source.keys.keys():
        return None, applies
    total = seen.sums["k"] + seen.sums["v"] if applies == "kv" else seen.sums[applies]
    if not total.determined:
        return None, applies
    fit = total.solve(rank)
    seen.misfit = fit.misfit
    expected = (seen.rounding / total.energy) ** 0.5
    return (fit if fit.misfit <= max(MISFIT, min(SLACK * expected, CAP)) else None), applies


def _deltas(source: _Source, names: Sequence[str], rank: int | None) -> tuple[dict[str, WeightDelta], float]:
    """A delta for each name, and ``sqrt(sum |lost|^2 / sum |change|^2)`` over all."""
    deltas, missed, total = {}, 0.0, 0.0
    for name, (new, old) in source.pairs(names):
        change = new.double() - old.double()
        deltas[name], lost = low_rank(name, change, rank=rank)
        energy = float(change.square().sum())
        missed, total = missed + lost * energy, total + energy
    return deltas, (missed / total) ** 0.5 if total else 0.0


def _encoder(base: Any, space: str) -> dict[str, Any]:
    """Clip-skip and fingerprint of the base's text encoder, if the base has one: maps are made for it."""
    if not isinstance(base, EditableModel):
        return {}
    return {"clip_skip": base.clip_skip, "probe": {space: probe(base)[space]}}


def _round(value: float | str) -> float | str:
    return float(f"{value:.3g}") if isinstance(value, float) else value

"""Adapter entries by module name -> weight deltas of a family, chosen by names and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..erasure import WeightDelta
from ..errors import NothingMatched, WrongFamily
from ..keys import Family, module_table, plain_module, stem_table
from .stacked import Parts, Scale, unstacked


@dataclass(frozen=True)
class Matched:
    """``deltas`` by canonical name, the ``family`` they fit, ``lost`` modules with no place in it, ``also`` fitting."""

    family: Family
    deltas: Mapping[str, WeightDelta]
    lost: tuple[str, ...]
    also: tuple[str, ...]

    def notes(self, modules: int) -> dict[str, str]:
        """One line for each thing the user should know."""
        result = {}
        if self.lost:
            shown = ", ".join(self.lost[:3]) + (", ..." if len(self.lost) > 3 else "")
            result["unmatched"] = f"{len(self.lost)} of {modules} entries have no place in this family: {shown}"
        if self.also:
            result["family"] = f"read as {self.family.name}; the entries fit {' and '.join(self.also)} as well"
        return result


def match(modules: Mapping[str, Parts], families: Sequence[Family], scale: Scale, file: str) -> Matched:
    """Deltas for the family in which most entries have a place.

    Raises :class:`WrongFamily` if a known name has a shape that does not fit: the rest alone would be half a file.
    :class:`NothingMatched` if no name is known.
    """
    read = [unstacked(modules, family, scale) for family in families]
    found = [_places(entries, family) for entries, family in zip(read, families, strict=True)]
    scores = [(len(places), sum(exact for _, exact in places.values())) for places in found]
    best = max(range(len(families)), key=scores.__getitem__)
    if not scores[best][0]:
        _refuse(modules, families, file)
    family, places, modules = families[best], found[best], read[best]
    shapes, deltas = family.shapes(), {}
    for module, (name, _) in places.items():
        for delta in to_deltas(name, modules[module], shapes[name], partial(scale, module)):
            deltas[delta.name] = delta
    _refuse_misfits(modules, places, family, file)
    also = tuple(f.name for f, score in zip(families, scores, strict=True) if f is not family and score == scores[best])
    return Matched(family, deltas, tuple(sorted(modules.keys() - places.keys())), also)


def _places(modules: Mapping[str, Parts], family: Family) -> dict[str, tuple[str, bool]]:
    """Module -> (canonical name, whether the number of dimensions fits too)."""
    shapes, places = family.shapes(), {}
    for module, parts in modules.items():
        name, implied = canonical_name(module, family), implied_shape(parts)
        if name is None or implied is None or not _bias_fits(name, parts, shapes):
            continue
        expected = shapes[name] if _has_weight(parts) else shapes[name][:1]
        if _core(implied) == _core(expected):
            places[module] = (name, len(implied) == len(expected))
    return places


def _has_weight(parts: Parts) -> bool:
    return "diff" in parts or "down" in parts


def _bias_fits(name: str, parts: Parts, shapes: Mapping[str, Sequence[int]]) -> bool:
    return "bias" not in parts or tuple(parts["bias"].shape) == shapes.get(bias_name(name))


def bias_name(name: str) -> str:
    """Canonical name of the bias beside a weight."""
    return name.removesuffix("weight") + "bias"


def canonical_name(module: str, family: Family) -> str | None:
    """Canonical weight name of a module by kohya or dotted name."""
    return stem_table(family).get(module) or module_table(family).get(plain_module(module))


def implied_shape(parts: Parts) -> tuple[int, ...] | None:
    """Shape of the weight that these parts change, None if they are incomplete."""
    if "diff" in parts:
        return tuple(parts["diff"].shape)
    if "down" in parts and "up" in parts:
        up, down = parts["up"], parts["down"]
        if up.ndim < 2 or down.ndim < 2:
            return None
        inner = parts["mid"].shape[:2] if "mid" in parts else (down.shape[0], down.shape[0])
        kernel = parts["mid"].shape[2:] if "mid" in parts else down.shape[2:]
        fits = up.shape[1] == inner[0] and down.shape[0] == inner[1] and up.shape[2:].numel() == 1
        return (up.shape[0], down.shape[1], *kernel) if fits else None
    return (len(parts["bias"]),) if "bias" in parts else None


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape without a 1x1 kernel: files write such convolutions as matrices, too, and the other way round."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def to_deltas(name: str, parts: Parts, shape: Sequence[int], scale: Callable[[int], float]) -> list[WeightDelta]:
    """The deltas of one module, in the dimensions of the weight's ``shape``; a bias becomes one of its own."""
    result = []
    if "diff" in parts:
        result.append(WeightDelta(name, diff=parts["diff"].reshape(tuple(shape))))
    elif "down" in parts and "up" in parts:
        down, up = parts["down"], parts["up"]
        rank = down.shape[0]
        factor = float(parts["alpha"]) / rank if "alpha" in parts and rank else scale(rank)
        if "mid" in parts:
            down = _core_into_down(parts["mid"], down)
        kernel = tuple(shape[2:])
        down = down.reshape(*down.shape[:2], *kernel)
        up = up.reshape(*up.shape[:2], *(1 for _ in kernel))
        result.append(WeightDelta(name, down=down, up=up, scale=factor))
    if "bias" in parts:
        result.append(WeightDelta(bias_name(name), diff=parts["bias"]))
    return result


def _core_into_down(mid: Tensor, down: Tensor) -> Tensor:
    """LyCORIS' CP decomposition ``sum_pq up[o,p] mid[p,q,h,w] down[q,i]`` (arXiv 2309.14859): core and down in one.

    mid [p, q, kh, kw], down [q, i, 1, 1] -> [p, i, kh, kw].
    """
    p, q, kh, kw = mid.shape
    product = mid.float().permute(0, 2, 3, 1).reshape(-1, q) @ down.float().flatten(1)
    return product.reshape(p, kh, kw, -1).permute(0, 3, 1, 2).contiguous()


def _refuse_misfits(modules: Mapping[str, Parts], places: Mapping[str, object], family: Family, file: str) -> None:
    """Raise WrongFamily for modules that the family has, but in another size."""
    shapes = family.shapes()
    misfits = []
    for module in modules.keys() - places.keys():
        name, implied = canonical_name(module, family), implied_shape(modules[module])
        if name is not None and implied is not None:
            misfits.append((module, implied, tuple(shapes[name] if _has_weight(modules[module]) else shapes[name][:1])))
    if misfits:
        module, implied, expected = min(misfits)
        raise WrongFamily(
            f"{file} was made for another model: {len(misfits)} of its {len(modules)} entries do not fit "
            f"{family.name}, first {module}, which changes a weight of shape {implied} where this family has "
            f"{expected}. "
            "Load it together with the model it was made for."
        )


def _refuse(modules: Mapping[str, Parts], families: Sequence[Family], file: str) -> None:
    names = [family.name for family in families]
    for family in families:
        for module, parts in modules.items():
            name, implied = canonical_name(module, family), implied_shape(parts)
            if name is not None and implied is not None:
                raise WrongFamily(
                    f"{file} was made for another model: {module} changes a weight of shape {implied}, where "
                    f"{family.name} has {tuple(family.shapes()[name])}. It fits none of: {', '.join(names)}. "
                    "Load it together with the model it was made for."
                )
    raise NothingMatched(
        f"None of the {len(modules)} entries of {file} has a place in {' or '.join(names)} "
        f"(first: {next(iter(modules), 'none')}). It was made for another kind of model."
    )

"""The published per-layer loops beside our solve of the same random rows, for scale.py.

Whole at 10 + 100 rows (erased + preserved) on all matrices of SD1.5. For SDXL on one 640- and one 1280-row matrix, of
which there are 20 and 120. At 100 + 1000 rows on one narrow (320 or 640) and one 1280-row matrix with a tenth and a
fiftieth of the rows, whose straight line leads to all of them; matrices between the two widths lie on a straight line,
too. What was counted up so is marked. RECE's derivation of texts, once for all matrices, is counted once. TRCE's loop
over prompts is UCE's; RealEra and CRCE have no published closed-form code: theirs would be UCE's loop over their rows;
LEACE has none, its fit is one d x d decomposition as ours.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import closed_form as base
import closed_form_methods as methods
import closed_form_speed as speed
import torch
from torch import Tensor

from erasure_core.solver import EditProblem

WIDTHS = {"SD1.5": (768, base.LAYERS), "SDXL": (2048, base.LAYERS_XL)}
SIZES = (base.SMALL, base.LARGE)
Layer = Callable[[Tensor], object]


@dataclass(frozen=True)
class Loop:
    """One method's published code on given rows: ``layer`` for a matrix, ``once`` for all of them together."""

    layer: Layer
    once: Callable[[], object] | None = None


def _uce(given: methods.Given, preserve: bool = True) -> Loop:
    erase, anchors, kept = given
    return Loop(lambda weight: base.published_loop([weight], erase, anchors, kept if preserve else kept[:0]))


def _mace(given: methods.Given) -> Loop:
    return Loop(lambda weight: methods.mace_loop([weight], given))


def _rece(given: methods.Given) -> Loop:
    """An edited matrix is as large as an original one, so the original stands for both."""
    erase, anchors, kept = given
    unit = 5 * torch.eye(erase.shape[1])

    def layer(weight: Tensor) -> None:
        methods.rece_sums([weight], [weight])
        base.published_loop([weight], erase, anchors, kept)

    return Loop(layer, lambda: erase @ (torch.inverse(unit) @ unit).T)


def _speed(given: methods.Given) -> Loop:
    data = (*given, base.rows(speed.INVARIANTS, given[0].shape[1], 4))
    return Loop(lambda weight: speed.published_layer(weight, data))


LOOPS: dict[str, Callable[[methods.Given], Loop]] = {
    "uce": _uce,
    "time": partial(_uce, preserve=False),
    "rece": _rece,
    "mace": _mace,
    "trce": _uce,
    "speed": _speed,
}


def loop_seconds(method: str, family: str, size: tuple[int, int]) -> dict[str, Any]:
    """Seconds of the published loop, median of three: whole, or extrapolated, which is said."""
    width, layers = WIDTHS[family]
    layers = layers[::2] if method == "speed" else layers  # its values only
    if size == base.SMALL and family == "SD1.5":
        loop, weights = LOOPS[method](base.parts(size, width)), list(base.matrices(layers, width).values())
        loop.layer(weights[0])  # does not count: what is done for the first time takes longer
        seconds = _median(lambda: [loop.layer(weight) for weight in weights])
        return {"seconds": round(seconds + _once(loop), 3), "extrapolated": False}
    narrow, wide = min(layers), 1280
    one = {outputs: _line(method, width, outputs, size) for outputs in (narrow, wide)}
    total = 0.0
    for outputs, count in Counter(layers).items():
        share = (outputs - narrow) / (wide - narrow)
        total += count * ((1 - share) * one[narrow] + share * one[wide])
    once = _once(LOOPS[method](base.parts(size, width)))
    return {"seconds": round(total + once, 3), "extrapolated": True, "matrices": [narrow, wide]}


def _line(method: str, width: int, outputs: int, size: tuple[int, int]) -> float:
    """Seconds of one matrix at ``size``; of the large one from a tenth of the rows and from a fiftieth."""
    weight = base.rows(outputs, width, 9) / 28

    def measured(rows: tuple[int, int]) -> float:
        return _median(partial(LOOPS[method](base.parts(rows, width)).layer, weight))

    LOOPS[method](base.parts((1, 2), width)).layer(weight)  # does not count, as above
    if size == base.SMALL:
        return measured(size)
    parts = [(size[0] // share, size[1] // share) for share in (50, 10)]
    few, some = (measured(part) for part in parts)
    return few + (some - few) * (sum(size) - sum(parts[0])) / (sum(parts[1]) - sum(parts[0]))


def _once(loop: Loop) -> float:
    return 0.0 if loop.once is None else _median(loop.once)


def ours(method: str, family: str, size: tuple[int, int]) -> Callable[[], object]:
    """Our way from the same rows to (D, Y)."""
    width, layers = WIDTHS[family]
    given = base.parts(size, width)
    if method == "mace":
        return partial(methods.mace_ours, given)
    if method == "rece":
        return methods.rece_ours(methods.start_of(given), _metric(width, layers), given)
    if method == "speed":
        data = (*given, base.rows(speed.INVARIANTS, width, 4))
        return partial(speed.solved, data, *_metric_and_weakest(width, layers[::2]), True)
    if method == "time":
        return lambda: EditProblem(*given[:2], None, base.RIDGE, space="clip_l").solve()
    return partial(base.solved, given)


def both(method: str, family: str, size: tuple[int, int], repeats: int = 5) -> dict[str, Any]:
    """Loop and ours, which is measured before and after, so that other work on the machine meets both."""
    _keep_freed_memory()
    work = ours(method, family, size)
    before = base.timed(work, repeats)
    loop = loop_seconds(method, family, size)
    own = statistics.median(before + base.timed(work, repeats))
    return {**loop, "ours": round(own, 5), "times": round(loop["seconds"] / own)}


def _metric(width: int, layers: Sequence[int]) -> Tensor:
    return _metric_and_weakest(width, layers)[0]


def _metric_and_weakest(width: int, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Random like the matrices; once for a model, and timed as such elsewhere."""
    sample = base.matrices(tuple(layers)[: 2 + 2048 // 640], width)
    return speed.of_model(sample)


def _keep_freed_memory() -> None:
    """Free a block just below glibc's largest threshold, after which such blocks are kept for the next product.

    In a process that never had one, a loop gives the memory of every outer product back to the system, and takes three
    times as long; the scripts have loaded a model before.
    """
    torch.empty(31 * 2**18)  # 31 MB


def _median(work: Callable[[], object]) -> float:
    return statistics.median(base.once(work, 3))

"""Reader of whole new weights: what was changed, as seen from a base.

Such files hold keys and values of the cross-attention (UCE, RECE, SPEED), part of a U-Net (ESD, Ablating Concepts), a
whole one (ESD, ANT, RACE, MACE, TRCE, SDD), a whole checkpoint or a text encoder (AdvUnlearn). The difference to the
base becomes one embedding map where that is what it is, else one delta a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..compression import check_rank, low_rank
from ..erasure import EmbeddingMap, Erasure, WeightDelta, cross_attention_names
from ..errors import BadInput, NothingMatched, WrongFamily
from ..keys import FAMILIES, Family, family_of
from ..models import EditableModel
from ..probe import probe
from ..shared_map import Fit, SharedMap
from .base_rule import Likeness, check_base, check_bulk, differs, equal_numbers, grain, median
from .compact import compact, rank_for
from .detect import FULL_ROWS, TEXT_ENCODER, kind_of
from .files import Header
from .kohya import base_of
from .sources import FileSource, Source, without_text
from .whole import names_of

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much; may raise to end the work."""

# Largest misfit of a map, as a share of the change. Measured (benchmarks/results/absolute_weights.json): edits computed
# in float64 and stored in fp32 3e-8 to 5e-7, the published fp32 loops 2e-5 to 3e-3; targets of its own for each matrix
# 0.01 to 0.5, weights of another model 0.64. An edit of a base that is itself off by 0.3 % misfits by 0.017: still
# a map. Rounding to fp16 or bf16 is expected on top (0.03 for one row in bf16), but is no excuse past the cap.
MISFIT, CAP, SLACK = 2e-2, 0.2, 2.0
LEFT_OUT = 0.3  # of the change's length: from here on a warning says that the low-rank form may erase less
_JUDGED = 32  # matrices whose bulk is looked at; it costs an eigenvalue problem each


@dataclass(frozen=True)
class Reading:
    """How a file is read. ``rank``: at most so many terms for the map and for each delta, all that is needed if None.

    ``small``: deltas of bounded rank in float16, for files that would fill the memory. ``force``: go on with a base
    that seems to be another one. ``progress`` is told about every tensor.
    """

    rank: int | None = None
    small: bool = False
    force: bool = False
    progress: Progress | None = None


def needs_base(header: Header, families: Sequence[Family] = tuple(FAMILIES.values())) -> str:
    """The sentence for a file that is loaded without a base."""
    text = False
    try:
        whole = names_of(header, families)
        what = f" for {whole.family.name} ({whole.contents})"
        text = not any(name.startswith("unet.") for name in whole.keys)
    except (WrongFamily, NothingMatched):
        what = ""  # a model of unusual size: only the base can tell
    return (
        f"{header.name} holds whole new weights{what}, not what was changed. "
        "Membrane needs the model that it was made from to tell: connect that checkpoint's MODEL to 'base' "
        + ("and its CLIP to 'base_clip' " if text else "")
        + "of Load Membrane; or load(path, base=model), or --base on the command line. To use it as it is, load it in "
        "your host as a model."
    )


def read_absolute(header: Header, base: Any, reading: Reading) -> Erasure:
    """What the file changes in ``base``, a Model or weights by name; tensors of both are read one by one.

    Raises WrongBase, WrongFamily, NothingMatched, and BadInput if nothing is changed or the base lacks what is.
    """
    weights = base if isinstance(base, Mapping) else base.weights()
    if kind_of(header) is TEXT_ENCODER and not any("text_model." in name for name in weights):
        raise without_text(header)  # before the names: the family's usual widths would be compared
    whole = names_of(header, (family_of(weights),))
    source = FileSource(header, whole, weights)
    erasure = erasure_of(source, base, reading)
    notes = dict(whole.found.notes(whole.modules))
    if whole.left_out:
        notes["ignored"] = f"{whole.left_out} tensors that are no weights of the U-Net or the text encoder in use"
    if source.missing:
        notes["skipped"] = f"{source.missing} tensors of a text encoder, which the base was given without"
    return replace(
        erasure,
        recipe={**erasure.recipe, "format": whole.kind.name},
        diagnostics={**erasure.diagnostics, **notes},
    )


def erasure_of(source: Source, base: Any, reading: Reading) -> Erasure:
    """What ``source`` changes; ``base`` is asked for its text encoder's fingerprint, if it has one."""
    if reading.rank is not None:
        check_rank(reading.rank)
    steps = _Steps(len(source.names), reading.progress)
    seen = _look(source, steps)
    if not seen.changed:
        raise BadInput(
            f"{source.header.name} holds the same weights as this base, so it changes nothing. The base may be the "
            "edited model itself; give the one it was made from."
        )
    ours = source.certain or seen.likeness.same_model
    doubt = "" if ours or not source.complete else check_base(source, reading.force)
    fit, applies = _shared(source, seen, reading.rank)
    rest = None
    covered = set(cross_attention_names(source.names, applies)) if fit else set()
    if fit is None and not ours and not source.complete:
        names = _judged(source)
        pairs = (source.pair(name) for name in names[:: max(1, len(names) // _JUDGED)])
        doubt, rest = check_bulk(source.header, pairs, reading.force)
    deltas, lost, worst = _deltas(source, [name for name in seen.changed if name not in covered], reading, steps)
    if lost > LEFT_OUT and reading.small:
        doubt = doubt or (
            f"The low-rank form leaves out {lost:.0%} of what the file changes, so it may erase less than the file. "
            "For all of it, use the command 'convert' with --base and without --rank, and load what it writes."
        )
    space = source.family.spaces[0]
    notes = {
        "base_distance": seen.distance,
        "base_bulk": rest,
        "map_residual": fit.residual if fit else seen.misfit,
        "delta_residual": lost if deltas else None,
        "delta_residual_worst": worst if deltas else None,
        "doubt": doubt or None,
    }
    diagnostics: dict[str, Any] = {
        "imported": {key: _round(value) for key, value in notes.items() if value is not None}
    }
    if fit is not None:
        diagnostics[space] = {"norm": _round(fit.norm), "rank": fit.factor.rank}
    return Erasure(
        maps={} if fit is None else {space: EmbeddingMap(space, (fit.factor,))},
        weight_deltas=deltas,
        applies=applies if fit else "kv",
        recipe={"method": "imported", "concepts": [], "options": {}},
        base={**base_of(source.family), **(_encoder(base, space) if fit else {})},
        gate=dict(FULL_ROWS),
        diagnostics=diagnostics,
    )


class _Steps:
    """Progress over a first pass of ``count`` tensors and a second one of those that turn out to have changed."""

    def __init__(self, count: int, tell: Progress | None) -> None:
        self.done, self.total, self._tell = 0, 2 * count, tell

    def one(self) -> None:
        self.done += 1
        if self._tell is not None:
            self._tell(min(self.done, self.total), self.total)

    def second(self, count: int) -> None:
        """The second pass has ``count`` tensors: the bar goes on from where it stands."""
        self.total = self.done + count


@dataclass
class _Seen:
    """One pass over the file: names that ``changed``, ``distance`` from the base, and the sums for maps by side."""

    changed: list[str] = field(default_factory=list)
    distance: float = 0.0
    likeness: Likeness = field(default_factory=Likeness)
    sums: dict[str, SharedMap] = field(default_factory=dict)
    rounding: float = 0.0
    misfit: float | None = None


def _look(source: Source, steps: _Steps) -> _Seen:
    """Compare everything with the base; sum up keys and values apart, so that a map may be for one of them."""
    seen = _Seen(sums={side: SharedMap(source.width) for side in "kv"})
    distances: dict[str, float] = {}
    for name in source.names:
        new, old = source.pair(name)
        changed = differs(new, old)
        if changed:
            seen.changed.append(name)
        seen.likeness.add(new.numel(), 0 if changed else new.numel(), equal_numbers(new, old) if changed else 0)
        if old.dim() > 1:
            distances[name] = float((new - old).norm() / old.norm().clamp_min(1e-30))
        if cross_attention_names([name]):
            wide = old.double()
            seen.sums[name.removesuffix(".weight")[-1]].add(wide, new.double() - wide)
            seen.rounding += (grain(new) ** 2 + grain(old) ** 2) * float(wide.square().sum())
        steps.one()
    seen.distance = median([distances[name] for name in _judged(source)])
    return seen


def _judged(source: Source) -> list[str]:
    """Matrices whose distance from the base is judged: those of the cross-attention, else all."""
    return cross_attention_names(source.names) or [name for name in source.names if len(source.shape(name)) > 1]


def _shared(source: Source, seen: _Seen, rank: int | None) -> tuple[Fit | None, str]:
    """The map of the changed keys and/or values, if all of them are in the file and follow one; and for which it is."""
    applies = "".join(side for side in "kv" if cross_attention_names(seen.changed, side))
    if not applies or not set(source.readers(applies)) <= set(source.names):
        return None, applies
    total = seen.sums["k"] + seen.sums["v"] if applies == "kv" else seen.sums[applies]
    if not total.determined:
        return None, applies
    fit = total.solve(rank)
    seen.misfit = fit.misfit
    expected = (seen.rounding / total.energy) ** 0.5
    return (fit if fit.misfit <= max(MISFIT, min(SLACK * expected, CAP)) else None), applies


def _deltas(
    source: Source, names: Sequence[str], reading: Reading, steps: _Steps
) -> tuple[dict[str, WeightDelta], float, float]:
    """A delta for each name; ``sqrt(sum |lost|^2 / sum |change|^2)`` over all, and the largest of one."""
    steps.second(len(names))
    most = reading.rank or rank_for([source.shape(name) for name in names])
    deltas, missed, total, worst = {}, 0.0, 0.0, 0.0
    for name in names:
        new, old = source.pair(name)
        if reading.small:
            deltas[name], lost = compact(name, new - old, most)
        else:
            deltas[name], lost = low_rank(name, new.double() - old.double(), rank=reading.rank)
        energy = float((new.double() - old.double()).square().sum())
        missed, total, worst = missed + lost * energy, total + energy, max(worst, lost**0.5)
        steps.one()
    return deltas, (missed / total) ** 0.5 if total else 0.0, worst


def _encoder(base: Any, space: str) -> dict[str, Any]:
    """Clip-skip and fingerprint of the base's text encoder, if the base has one: maps are made for it."""
    if not isinstance(base, EditableModel):
        return {}
    return {"clip_skip": base.clip_skip, "probe": {space: probe(base)[space]}}


def _round(value: float | str) -> float | str:
    return float(f"{value:.3g}") if isinstance(value, float) else value

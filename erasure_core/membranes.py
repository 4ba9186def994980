"""A membrane is an erasure with a strength; applying some of them to a model is reversible and says what it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar

from .erasure import EmbeddingMap, Erasure, WeightDelta, cross_attention_names
from .errors import BadInput, NothingMatched, WrongFamily
from .models import Model, Patch
from .probe import check_encoder

ACT_ON = ("auto", "text", "weights")


@dataclass(frozen=True)
class Membrane:
    """An erasure and how strongly it acts: 0 is off to the last bit, 1 as solved, more exaggerates, below 0 inverts."""

    schema: ClassVar[str] = "membrane/1"

    erasure: Erasure
    strength: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.strength, int | float) or not math.isfinite(self.strength):
            raise BadInput(f"The strength of a membrane is a number like 1 or 0.5, not {self.strength!r}.")


@dataclass(frozen=True)
class Receipt:
    """What an applied membrane amounts to, for people and for JSON; ``norm`` and ``drift`` are None if not known."""

    family: str
    matched: int
    total: int
    rank: int
    norm: float | None
    drift: float | None
    act_on: str
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [
            f"family {self.family} · {self.matched} of {self.total} layers · rank {self.rank} · acts on {self.act_on}"
        ]
        if self.norm is not None and self.drift is not None:
            lines.append(f"‖T−I‖ {self.norm:.3g} · drift on preserved phrases {self.drift:.2%}")
        return "\n".join([*lines, *self.notes])


class Applied:
    """Membranes in force on a model; leave the ``with`` block or call ``undo`` to restore the model bitwise."""

    def __init__(self, patch: Patch, receipts: tuple[Receipt, ...]) -> None:
        self._patch = patch
        self.receipts = receipts

    @property
    def receipt(self) -> str:
        """All receipts as text."""
        return "\n".join(map(str, self.receipts)) or "no membrane applied"

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""
        self._patch.undo()

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def apply(model: Model, membranes: Membrane | Sequence[Membrane], act_on: str = "auto", rows: str = "cond") -> Applied:
    """Put membranes in front of ``model``; the changes of several are added up, in either form, and receipts say so.

    ``act_on``: "text" maps the text on its way into the denoiser, "weights" bakes the maps into the cross-attention
    weights, "auto" is text wherever possible. ``rows``: with maps on the text, "cond" leaves the negative prompt
    alone, "all" maps it, too (what weights always do). Raises WrongFamily, WrongBase or NothingMatched before
    anything changes.
    """
    if act_on not in ACT_ON:
        raise BadInput(f"act_on is one of {', '.join(ACT_ON)}, not {act_on!r}.")
    chosen = [membranes] if isinstance(membranes, Membrane) else list(membranes)
    maps: dict[str, list[tuple[EmbeddingMap, float]]] = {}
    deltas: list[WeightDelta] = []
    receipts = []
    for membrane in chosen:
        erasure, strength = membrane.erasure, float(membrane.strength)
        notes = _check(model, erasure) + _summed(erasure, chosen)
        form = "weights" if act_on == "weights" or erasure.applies != "kv" else "text"
        changed = erasure.deltas(model.weights()) if form == "weights" else erasure.weight_deltas
        deltas += [delta.scaled(strength) for delta in changed.values()]
        if form == "text":
            for space, emap in erasure.maps.items():
                maps.setdefault(space, []).append((emap, strength))
        receipts.append(_receipt(model, erasure, form, notes))
    return Applied(model.patch(maps, deltas, rows), tuple(receipts))


def _check(model: Model, erasure: Erasure) -> tuple[str, ...]:
    if not erasure.maps and not erasure.weight_deltas:
        raise NothingMatched("The erasure is empty: it changes nothing. Choose another file or erase again.")
    for space, emap in erasure.maps.items():
        if model.spaces.get(space) != emap.width:
            has = ", ".join(f"{name} ({width})" for name, width in model.spaces.items())
            raise WrongFamily(
                f"The erasure acts on the text space {space} of width {emap.width}; this {model.family} model has "
                f"{has}. Use it with the model family it was made for, or erase again with this model."
            )
    note = check_encoder(erasure.base["probe"], model) if erasure.maps and erasure.base.get("probe") else ""
    return (note,) if note else ()


def _summed(erasure: Erasure, chosen: Sequence[Membrane]) -> tuple[str, ...]:
    """A note where other maps act on the same text: each was solved without knowing of the others."""
    sharing = sum(bool(erasure.maps.keys() & membrane.erasure.maps.keys()) for membrane in chosen)
    return ("summed, not joint: erase the concepts together for the best result",) if sharing > 1 else ()


def _receipt(model: Model, erasure: Erasure, form: str, notes: tuple[str, ...]) -> Receipt:
    numbers: Sequence[dict[str, Any]] = [v for v in erasure.diagnostics.values() if isinstance(v, dict)]
    weights = model.weights()
    readers = cross_attention_names(weights, erasure.applies)
    layers = erasure.weight_deltas if erasure.weight_deltas else readers
    return Receipt(
        family=model.family,
        matched=sum(name in weights for name in layers),
        total=len(layers),
        rank=erasure.rank,
        norm=max((float(n["norm"]) for n in numbers if "norm" in n), default=None),
        drift=max((float(n["drift"]) for n in numbers if "drift" in n), default=None),
        act_on=form if erasure.maps else "weights",
        notes=notes,
    )

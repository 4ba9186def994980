"""A membrane is an erasure with a gate and a strength; applying some of them is reversible and says what it did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar

from .acting import Action
from .advice import warnings_of
from .erasure import Erasure, cross_attention_names
from .errors import BadInput, NothingMatched, WrongFamily
from .formats.metadata import title
from .gates import check_gate, choose_gate, make_gate
from .join import erase_again, joined
from .models import EditableModel, Patch
from .options import read_options
from .plan import ACT_ON, Chaining, Plan, can_be_gated, planned
from .probe import check_encoder
from .reading import Activation, prompt_rows


@dataclass(frozen=True)
class Membrane:
    """An erasure, how strongly it acts, and for which prompts.

    ``strength``: 0 is off to the last bit, 1 as solved, more exaggerates, below 0 inverts. ``gate``: one of
    :data:`.gates.GATES`; "auto" is "calibrated" (prompts that name or describe the concept) where the erasure says what
    it erases and can be gated, else "always". ``name``: for lists; by default what is erased. ``start`` and ``end``:
    the part of the sampling in which it acts, from 0, pure noise, to 1, the finished picture.
    """

    schema: ClassVar[str] = "membrane/1"

    erasure: Erasure
    strength: float = field(default=1.0, kw_only=True)
    gate: str = field(default="auto", kw_only=True)
    name: str = field(default="", kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise BadInput(
                f"A membrane acts from start to end, 0 <= start < end <= 1, not from {self.start!r} to {self.end!r}."
            )
        if not isinstance(self.strength, int | float) or not math.isfinite(self.strength):
            raise BadInput(f"The strength of a membrane is a number like 1 or 0.5, not {self.strength!r}.")
        check_gate(self.gate, _phrases(self.erasure))

    @property
    def label(self) -> str:
        """Its name, else what it erases."""
        return self.name or title(self.erasure)


@dataclass(frozen=True)
class Receipt:
    """What an applied membrane amounts to, for people and for JSON; ``norm`` and ``drift`` are None if not known.

    ``warnings`` say what will not go as hoped, ``notes`` what was done differently from what was asked.
    """

    name: str
    family: str
    matched: int
    total: int
    rank: int
    norm: float | None
    drift: float | None
    act_on: str
    strength: float = 1.0
    gate: str = "always"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 1.0

    def __str__(self) -> str:
        lines = [
            f"{self.name} · family {self.family} · {self.matched} of {self.total} layers · rank {self.rank} · "
            f"acts on {self.act_on} · strength {self.strength:g} · gate {self.gate}"
            + (f" · from {self.start:g} to {self.end:g} of the sampling" if (self.start, self.end) != (0, 1) else "")
        ]
        if self.norm is not None and self.drift is not None:
            lines.append(f"‖T−I‖ {self.norm:.3g} · drift on preserved phrases {self.drift:.2%}")
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings), *(f"note: {n}" for n in self.notes)])


class Applied:
    """Membranes in force on a model; leave the ``with`` block or call ``undo`` to restore the model bitwise."""

    def __init__(self, patch: Patch, receipts: tuple[Receipt, ...]) -> None:
        self.patch = patch
        self.receipts = receipts

    @property
    def receipt(self) -> str:
        """All receipts as text."""
        return "\n".join(map(str, self.receipts)) or "no membrane applied"

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""
        self.patch.undo()

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def apply(
    model: EditableModel,
    membranes: Membrane | Sequence[Membrane],
    act_on: str = "auto",
    rows: str = "cond",
    **chaining: Any,
) -> Applied:
    """Put membranes in front of ``model``; the changes of several are added up, in either form, and receipts say so.

    ``act_on``: "text" maps the text on its way into the denoiser and adds changes of weights to what the layers give,
    each row by its gain; "weights" bakes everything in, by the strength alone; "auto" is "text" wherever possible, but
    for whole differences of weights that act always. ``rows``: with "cond" maps leave the negative prompt alone, and
    changes of weights have the positive prompt's gain on it, too; with "all" every row has its own. ``chaining``: see
    :class:`~erasure_core.plan.Chaining`. A membrane whose file is missing is solved again from its recipe. Raises
    WrongFamily, WrongBase or NothingMatched before anything changes.
    """
    if act_on not in ACT_ON:
        raise BadInput(f"act_on is one of {', '.join(ACT_ON)}, not {act_on!r}.")
    how_chained = read_options(Chaining, chaining, "apply")
    given = checked(membranes)
    ready = [solved(model, membrane) for membrane in given]
    together = _together(model, [erasure for erasure, _ in ready])
    actions, deltas, receipts = [], [], []
    for membrane, (_, again), (erasure, how) in zip(given, ready, together, strict=True):
        doubts = _check(model, erasure)
        gate, why = choose_gate(membrane.gate, erasure.gate, can_be_gated(erasure, act_on), model)
        notes = (*again, *how, *((why,) if why else ()))
        plan = planned(model, membrane.label, erasure, act_on, gate, part_of(membrane))
        deltas += [delta.scaled(float(membrane.strength)) for delta in plan.baked.values()]
        if membrane.strength != 0 and (plan.maps or plan.deltas or plan.bottlenecks):
            actions.append(
                Action(
                    membrane.label,
                    plan.maps,
                    float(membrane.strength),
                    make_gate(gate, _phrases(erasure), _neighbours(erasure), model, erasure.gate),
                    plan.deltas,
                    plan.bottlenecks,
                    full=erasure.gate.get("rows") == "full",
                    window=part_of(membrane),
                    power=how_chained.gain_power,
                    mixes=how_chained.chain_mode == "official_compat",
                    kind=gate,
                )
            )
        receipts.append(_receipt(model, membrane, erasure, plan, gate, notes, doubts + warnings_of(erasure)))
    return Applied(model.patch(actions, [delta for delta in deltas if delta.scale != 0], rows), tuple(receipts))


def part_of(membrane: Membrane) -> tuple[float, float]:
    """The part of the sampling in which it acts; membranes of an earlier version always do."""
    return float(getattr(membrane, "start", 0.0)), float(getattr(membrane, "end", 1.0))


def would_activate(
    model: EditableModel, membranes: Membrane | Sequence[Membrane], prompt: str
) -> list[tuple[Membrane, Activation]]:
    """How far each membrane would act on ``prompt`` as a positive one, without applying anything.

    The activation's ``gain`` is the gate's answer, 0..1, before the strength.
    """
    (row,) = prompt_rows(model.encode([prompt]))
    found = []
    for membrane in checked(membranes):
        erasure, _ = solved(model, membrane)
        gate, _ = choose_gate(membrane.gate, erasure.gate, can_be_gated(erasure, "auto"), model)
        made = make_gate(gate, _phrases(erasure), _neighbours(erasure), model, erasure.gate)
        found.append((membrane, made(row)))
    return found


def checked(membranes: Any) -> list[Membrane]:
    """One membrane or several as a list. Raises BadInput for anything else, or one of another version of this package.

    The package may exist twice in one process, so what counts is the mark that a membrane carries, not its class.
    """
    given = [membranes] if hasattr(membranes, "erasure") else list(membranes or ())
    for membrane in given:
        mark = getattr(membrane, "schema", None)
        if mark != Membrane.schema:
            raise BadInput(
                f"This is no membrane of version 1 but {mark or type(membrane).__name__}. Connect the output of Erase "
                "or Load Membrane, and keep only one version of Membrane installed."
            )
    return given


def solved(model: EditableModel, membrane: Membrane) -> tuple[Erasure, tuple[str, ...]]:
    """The erasure itself, or the one that the recipe of a missing file gives, and a note that says so."""
    erasure: Erasure = membrane.erasure
    if erasure.maps or erasure.weight_deltas or erasure.bottlenecks:
        return erasure, ()
    if not erasure.recipe:
        raise NothingMatched("The erasure is empty: it changes nothing. Choose another file or erase again.")
    return erase_again(model, erasure.recipe), (
        f"the file of '{membrane.label}' is missing: solved again from its recipe",
    )


def _phrases(erasure: Erasure) -> list[str]:
    return [str(phrase) for phrase in erasure.gate.get("phrases", ())]


def _neighbours(erasure: Erasure) -> list[str]:
    return [str(phrase) for phrase in erasure.gate.get("neighbours", ())]


def _check(model: EditableModel, erasure: Erasure) -> tuple[str, ...]:
    for space, emap in erasure.maps.items():
        if model.spaces.get(space) != emap.width:
            has = ", ".join(f"{name} ({width})" for name, width in model.spaces.items())
            raise WrongFamily(
                f"The erasure acts on the text space {space} of width {emap.width}; this {model.family} model has "
                f"{has}. Use it with the model family it was made for, or erase again with this model."
            )
    note = check_encoder(erasure.base["probe"], model) if erasure.maps and erasure.base.get("probe") else ""
    return (note,) if note else ()


def _together(model: EditableModel, erasures: Sequence[Erasure]) -> list[tuple[Erasure, tuple[str, ...]]]:
    """Erasures whose maps share a text, solved as one where that is possible; a note says what was done."""
    sharing = [i for i, e in enumerate(erasures) if any(e.maps.keys() & o.maps.keys() for o in erasures if o is not e)]
    result: list[tuple[Erasure, tuple[str, ...]]] = [(erasure, ()) for erasure in erasures]
    if not sharing:
        return result
    joint = joined([erasures[i] for i in sharing], model)
    for place, i in enumerate(sharing):
        if joint is None:
            result[i] = (erasures[i], ("summed, not joint: erase the concepts together for the best result",))
        else:
            result[i] = (
                joint[place],
                ("solved jointly with the others on the same text", *_conceded(erasures[i], joint[place])),
            )
    return result


def _conceded(erasure: Erasure, joint: Erasure) -> tuple[str, ...]:
    """A note on what it preserves by itself but not in this list, where another one erases it."""
    kept = joint.recipe.get("preserve", ())
    lost = [str(phrase) for phrase in erasure.recipe.get("preserve", ()) if phrase not in kept]
    return (f"no longer preserved, since another membrane erases it: {', '.join(lost)}",) if lost else ()


def _receipt(
    model: EditableModel,
    membrane: Membrane,
    erasure: Erasure,
    plan: Plan,
    gate: str,
    notes: tuple[str, ...],
    warnings: tuple[str, ...],
) -> Receipt:
    numbers: Sequence[Mapping[str, Any]] = [v for v in erasure.diagnostics.values() if isinstance(v, dict)]
    weights = model.weights()
    readers = cross_attention_names(weights, erasure.applies)
    layers = [*erasure.weight_deltas, *(f"{name}.to_out.0.weight" for name in erasure.bottlenecks)] or readers
    return Receipt(
        name=membrane.label,
        family=model.family,
        matched=sum(name in weights for name in layers),
        total=len(layers),
        rank=erasure.rank,
        norm=max((float(n["norm"]) for n in numbers if "norm" in n), default=None),
        drift=max((float(n["drift"]) for n in numbers if "drift" in n), default=None),
        act_on=plan.acts_on,
        strength=float(membrane.strength),
        gate=gate,
        notes=notes + plan.notes + (() if membrane.strength else ("off: its strength is 0",)),
        warnings=warnings,
        start=part_of(membrane)[0],
        end=part_of(membrane)[1],
    )

"""Which part of an erasure acts where: on the text, on layers while the model runs, or baked into the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .bottleneck import Bottleneck
from .erasure import EmbeddingMap, Erasure, WeightDelta
from .errors import BadInput
from .models import EditableModel
from .options import choice, number, parse_options, read_options

ACT_ON = ("auto", "text", "weights")
CHAIN_MODES = ("sum", "official_compat")
_DENOISER = ("unet.", "transformer.")


@dataclass(frozen=True)
class Chaining:
    """How several membranes of changed layers are chained."""

    chain_mode: str = choice(
        "sum", CHAIN_MODES, "sum = each acts by itself; official_compat = SPM's published code, cross terms included"
    )
    gain_power: int = number(
        1, 1, 2, "power of the gates' gains: 2 = squared, as SPM's published code does", whole=True
    )

    @classmethod
    def read(cls, options: str) -> dict[str, Any]:
        """``"chain_mode=official_compat"`` as keywords of ``apply``; raises BadInput for anything else."""
        return asdict(read_options(cls, parse_options(options), "Apply Membranes"))


@dataclass(frozen=True)
class Plan:
    """``maps`` on the text, ``deltas`` and ``bottlenecks`` on layers by a gain, ``baked`` deltas in the weights."""

    maps: Mapping[str, EmbeddingMap] = field(default_factory=dict)
    deltas: Mapping[str, WeightDelta] = field(default_factory=dict)
    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)
    baked: Mapping[str, WeightDelta] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def acts_on(self) -> str:
        """For people: "text", "layers", "weights", or several of them."""
        parts = {"text": self.maps, "layers": self.deltas or self.bottlenecks, "weights": self.baked}
        return " and ".join(name for name, part in parts.items() if part) or "nothing"


def can_be_gated(erasure: Erasure, act_on: str) -> bool:
    """Whether anything of it will act by gains: what is baked in cannot, nor changes of text encoders."""
    late = any(name.startswith(_DENOISER) for name in erasure.weight_deltas)
    return act_on != "weights" and bool(erasure.maps or erasure.bottlenecks or late)


def planned(
    model: EditableModel, label: str, erasure: Erasure, act_on: str, gate: str, window: tuple[float, float]
) -> Plan:
    """The parts of ``erasure`` under ``gate``, which is not "auto", in the part ``window`` of the sampling.

    Changes of text encoders are always baked in: the text is encoded before any gate can know it. So are whole
    differences of weights that act always, since adding them at run time would double the work of their layers.
    Raises BadInput if what cannot be baked in is asked to be.
    """
    constant = gate == "always" and window == (0.0, 1.0)
    if act_on == "weights":
        if erasure.bottlenecks:
            raise BadInput(
                f"'{label}' holds small networks behind the attention (Receler), which no weight can hold. "
                "Use act_on = auto."
            )
        return Plan(baked=erasure.deltas(model.weights()), notes=_notes(not constant, gate))
    on_text = erasure.maps if erasure.applies == "kv" else {}
    changed = erasure.weight_deltas if on_text else erasure.deltas(model.weights())
    late = {
        name: delta
        for name, delta in changed.items()
        if name.startswith(_DENOISER) and not (constant and delta.diff is not None and act_on == "auto")
    }
    baked = {name: delta for name, delta in changed.items() if name not in late}
    return Plan(on_text, late, erasure.bottlenecks, baked, _notes(bool(baked) and not constant, gate))


def _notes(ungated: bool, gate: str) -> tuple[str, ...]:
    if not ungated:
        return ()
    what = f"gate '{gate}'" if gate != "always" else "part of the sampling"
    return (f"changes of weights act on every prompt: the {what} is not used for them",)

"""Content hash of what is applied to a model: equal for equal effects, whatever the file or the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from ..digest import tensor_digest
from .cache import BASE, content_hash

if TYPE_CHECKING:
    from ..erasure import Erasure
    from ..guidance import GuidanceTerm
    from ..membranes import Membrane


def membranes_hash(
    membranes: Sequence[Membrane],
    act_on: str = "auto",
    rows: str = "cond",
    guidance: Sequence[GuidanceTerm] = (),
) -> str:
    """SHA-256 over tensors, gates, strengths, the way of applying and guidance; ``"base"`` for nothing at all."""
    if not membranes and not guidance:
        return BASE
    parts = [{"erasure": erasure_hash(membrane.erasure), **_settings(membrane)} for membrane in membranes]
    content: dict[str, object] = {"membranes": parts, "act_on": act_on, "rows": rows}
    if guidance:
        content["guidance"] = [repr(term) for term in guidance]  # frozen dataclasses of numbers and texts
    return content_hash(content)


def erasure_hash(erasure: Erasure) -> str:
    """SHA-256 of an erasure's tensors and of the gate phrases that decide when they act."""
    maps = {
        space: [
            [tensor_digest(factor.down), tensor_digest(factor.up), tensor_digest(factor.bias)]
            for factor in emap.factors
        ]
        for space, emap in erasure.maps.items()
    }
    deltas = {
        name: [tensor_digest(delta.down), tensor_digest(delta.up), tensor_digest(delta.diff), delta.scale]
        for name, delta in erasure.weight_deltas.items()
    }
    content = {"maps": maps, "deltas": deltas, "applies": erasure.applies, "gate": dict(erasure.gate)}
    if erasure.bottlenecks:
        content["bottlenecks"] = {
            name: [tensor_digest(tensor) for tensor in (b.down, b.down_bias, b.up, b.up_bias)]
            for name, b in erasure.bottlenecks.items()
        }
    return content_hash(content)


def _settings(membrane: Membrane) -> dict[str, str]:
    """Everything a membrane has beside its erasure, by its own hash where it has one."""
    values = {field.name: getattr(membrane, field.name) for field in fields(membrane) if field.name != "erasure"}
    return {
        name: repr(float(value)) if isinstance(value, int | float) else str(getattr(value, "fingerprint", value))
        for name, value in values.items()
    }

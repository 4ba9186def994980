"""What an objective asks of one latent: predictions of the trained model, each with the combination it shall equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .draw import Draw

NOISE = "noise"


@dataclass(frozen=True)
class Term:
    """``weight * mean |student(text) - sum_j target_j frozen(text_j)|^2``.

    ``student`` and the keys of ``target`` are roles of texts in the draw; in the target :data:`NOISE` stands for the
    right answer, the noise that the latent was made with. ``keeps``: it preserves rather than erases.
    ``current``: the target is made of the trained model's own predictions, without gradient, not of the frozen one's.
    A term of weight 0 is evaluated for a watcher alone and has no target.
    """

    student: str
    target: Mapping[str, float]
    weight: float = 1.0
    keeps: bool = False
    current: bool = False


def combined(target: Mapping[str, float], predictions: Mapping[str, Tensor]) -> Tensor:
    """``sum_j coefficient_j prediction_j``, in float32. A text whose coefficient is 0 need not have been predicted."""
    parts = [predictions[name].float() * factor for name, factor in target.items() if factor]
    return sum(parts[1:], parts[0])


def guided_away(concept: str, base: str, eta: float) -> dict[str, float]:
    """``base - eta (concept - base)``: ESD's target (arXiv 2303.07345, eq. 4), SPM's with a surrogate as the base."""
    return merged({base: 1.0 + eta}, {concept: -eta})


def beyond(eta: float | None, draw: Draw) -> float:
    """How far to go beyond the base: ``eta``; if it is None 1, as published, or less where the base is an anchor.

    With an anchor the concept is led somewhere already. Going on as far again also moves what lies between the two, as
    purple lies between red and blue: 0.2. Styles, which SPM's authors push harder, too, need 0.5.
    """
    if eta is not None:
        return eta
    if not draw.example.texts["anchor"]:
        return 1.0
    return 0.5 if draw.example.kind == "style" else 0.2


def merged(*targets: Mapping[str, float]) -> dict[str, float]:
    """Targets added up."""
    result: dict[str, float] = {}
    for target in targets:
        for name, factor in target.items():
            result[name] = result.get(name, 0.0) + factor
    return result


def keep(roles: Sequence[str], weight: float) -> list[Term]:
    """Each of ``roles`` stays as the frozen model has it; together they count ``weight``."""
    return [Term(role, {role: 1.0}, weight / len(roles), keeps=True) for role in roles]

"""What the bench asks of a judge of pictures, and how its answers and failures are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..errors import BadInput

GARBLED = "garbled"
"""Label of a picture that shows none of the things the detector knows."""


class Undecided(Exception):
    """A detector raises it for a picture it cannot judge; the picture is counted as undecided, never as a success."""


FAILURES: tuple[type[Exception], ...] = (Undecided, ArithmeticError, LookupError, OSError, RuntimeError, ValueError)
"""Failures of a detector that leave pictures undecided, unless it declares its own in ``failures``.

Mistakes of a program (TypeError, AttributeError) are not among them: they must be seen.
"""


class Detector(Protocol):
    """Names what pictures show; ``attributes`` are things like "shape" and "colour", or just "concept"."""

    @property
    def attributes(self) -> Sequence[str]:
        """What is named."""

    @property
    def fingerprint(self) -> str:
        """Short text that changes when answers may."""

    def read(self, images: Tensor) -> Sequence[Any]:
        """For pictures [B, 3, H, W] in 0..1: B answers, each a mapping or an object with a label per attribute.

        An answer may carry ``confidence`` (attribute -> 0..1), and may be None for a picture that cannot be judged.
        """


@dataclass(frozen=True)
class Verdict:
    """What was read on one picture: labels by attribute, or the reason why nothing could be read."""

    labels: Mapping[str, str] = field(default_factory=dict)
    confidence: Mapping[str, float] = field(default_factory=dict)
    undecided: str = ""

    @property
    def garbled(self) -> bool:
        """Whether the picture shows nothing the detector knows."""
        return GARBLED in self.labels.values()


def judge(detector: Detector, images: Tensor) -> list[Verdict]:
    """Read pictures [B, 3, H, W] in 0..1; one that the detector fails on becomes undecided and costs no other."""
    failures = tuple(getattr(detector, "failures", FAILURES))
    try:
        answers = list(detector.read(images))
    except failures as error:
        if len(images) == 1:
            return [Verdict(undecided=type(error).__name__)]
        return [verdict for image in images for verdict in judge(detector, image[None])]
    if len(answers) != len(images):
        raise BadInput(f"The detector gave {len(answers)} answers for {len(images)} pictures; it must give one each.")
    return [_verdict(answer, detector.attributes) for answer in answers]


def _verdict(answer: Any, attributes: Sequence[str]) -> Verdict:
    if answer is None:
        return Verdict(undecided="no answer")
    if isinstance(answer, Mapping):
        found = {name: answer.get(name) for name in attributes}
        confidence = answer.get("confidence") or {}
    else:
        found = {name: getattr(answer, name, None) for name in attributes}
        confidence = getattr(answer, "confidence", None) or {}
    missing = [name for name, label in found.items() if label is None]
    if missing:
        raise BadInput(f"The detector promises the attribute {missing[0]!r} but did not name it.")
    rounded = {str(name): round(float(value), 3) for name, value in confidence.items()}
    return Verdict({name: str(label) for name, label in found.items()}, rounded)

"""What a guidance term did at each noise level of a run: numbers for the node's panel and for its plot."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.guidance import Moment, Trace

EVENT = "membrane.guidance"


@dataclass(frozen=True)
class Step:
    """One evaluation of one term; tensors stay on their device until the run is over. None where it did nothing."""

    at: Moment
    numbers: Tensor | None  # density, gain, share


def step(at: Moment, trace: Trace | None, stands_in: bool) -> Step:
    """Means over edits and pictures. A negative in the place of the empty prompt has no share of its own."""
    if stands_in:
        return Step(at, torch.tensor([1.0, 1.0, math.nan]))
    if trace is None:
        return Step(at, None)
    nothing = [trace.share.new_zeros(())]
    density = torch.stack([edit.density.mean() for edit in trace.edits] or nothing).mean()
    gain = torch.stack([edit.gain.mean() for edit in trace.edits] or nothing).mean()
    return Step(at, torch.stack([density.to(trace.share), gain.to(trace.share), trace.share.mean()]))


@dataclass(frozen=True)
class Curves:
    """A term in one run. ``steps``: (progress, density, gain, share) by noise level, falling; share None: not known.

    ``evaluations``: of texts, without guidance terms and further ones by the terms of all nodes.
    """

    label: str
    steps: tuple[tuple[float, float, float, float | None], ...]
    cfg: float
    evaluations: tuple[int, int]
    warning: str = ""

    @classmethod
    def of(cls, label: str, steps: Sequence[Step], cfg: float, evaluations: tuple[int, int]) -> Curves:
        """The last evaluation of each noise level counts: some samplers look at a level twice."""
        last = {step.at.sigma: step for step in steps}
        ordered = [last[sigma] for sigma in sorted(last, reverse=True)]
        return cls(label, tuple(_row(step) for step in ordered), cfg, evaluations)

    def to_dict(self) -> dict[str, Any]:
        """For the page; a warning is also written to the log, for those who have no page."""
        if self.warning:
            logging.getLogger(__name__).warning("%s: %s", self.label, self.warning)
        return asdict(self)


def _row(step: Step) -> tuple[float, float, float, float | None]:
    density, gain, share = (0.0, 0.0, 0.0) if step.numbers is None else step.numbers.tolist()
    return step.at.progress, density, gain, share if math.isfinite(share) else None

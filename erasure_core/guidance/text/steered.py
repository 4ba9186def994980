"""Text as a method leaves it: changed rows, for how much of the run, and an account of what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models import Encoded
from .places import places


@dataclass(frozen=True)
class Proposal:
    """What a method would make of a batch: ``hidden`` [B, T, d], ``pooled`` [B, p] or None, until when in the run
    (``until`` [B], 1 = to its end), and how much of the concept it found (``presence`` [B])."""

    hidden: Tensor
    pooled: Tensor | None
    until: Tensor
    presence: Tensor


@dataclass(frozen=True)
class Report:
    """Of one prompt: how much of the concept was found, what the gate let through, until when in the run the change
    holds, and how many rows of each place were changed."""

    presence: float
    gain: float
    until: float
    changed: dict[str, int]

    def __str__(self) -> str:
        if not any(self.changed.values()):
            return "unchanged"
        rows = ", ".join(f"{count} {place}" for place, count in self.changed.items() if count)
        span = "" if self.until >= 1 else f" until {self.until:.0%} of the run"
        return f"presence {self.presence:.2f}, gain {self.gain:.2f}: changed {rows}{span}"


@dataclass(frozen=True)
class Steered:
    """A batch of texts that may change during the run: ``first``, and from ``until`` [B] of the run on ``then``."""

    first: Encoded
    then: Encoded
    until: Tensor
    reports: tuple[Report, ...]

    def __len__(self) -> int:
        return len(self.first)

    def at(self, progress: float) -> Encoded:
        """The texts at a point of the run, 0 = pure noise, 1 = the picture."""
        early = self.until > progress
        if early.all() or self.until.min() >= 1:
            return self.first
        if not early.any():
            return self.then
        return _mixed(self.first, self.then, early)


def settled(encoded: Encoded, proposal: Proposal, gains: Tensor) -> Steered:
    """``encoded`` moved by ``gains`` [B] towards the proposal; rows that would not move keep their bits."""
    wide = gains.double()
    hidden = _moved(encoded.hidden, proposal.hidden, wide.view(-1, 1, 1))
    pooled = encoded.pooled
    if pooled is not None and proposal.pooled is not None:
        pooled = _moved(pooled, proposal.pooled, wide.view(-1, 1))
    first = replace(encoded, hidden=hidden, pooled=pooled)
    moved = (hidden != encoded.hidden).any(2).cpu()
    where = places(encoded)
    reports = []
    for i in range(len(encoded)):
        changed = {place: int((moved[i] & mask[i]).sum()) for place, mask in where.items()}
        if pooled is not None and encoded.pooled is not None:
            changed["pooled"] = int((pooled[i] != encoded.pooled[i]).any())
        reports.append(Report(float(proposal.presence[i]), float(gains[i]), float(proposal.until[i]), changed))
    return Steered(first, encoded, proposal.until.double(), tuple(reports))


def _moved(before: Tensor, after: Tensor, gains: Tensor) -> Tensor:
    gains, wide = gains.to(before.device), before.double()
    goal = after.to(before.device).double()
    still = (goal == wide).all(-1, keepdim=True) | (gains == 0)
    return torch.where(still, before, (wide + gains * (goal - wide)).to(before.dtype))


def _mixed(first: Encoded, then: Encoded, early: Tensor) -> Encoded:
    hidden = torch.where(early.view(-1, 1, 1).to(first.hidden.device), first.hidden, then.hidden)
    pooled = None
    if first.pooled is not None and then.pooled is not None:
        pooled = torch.where(early.view(-1, 1).to(first.pooled.device), first.pooled, then.pooled)
    return replace(first, hidden=hidden, pooled=pooled)


def joined_reports(steered: Sequence[Steered]) -> str:
    """One line per prompt."""
    return "\n".join(str(report) for one in steered for report in one.reports)

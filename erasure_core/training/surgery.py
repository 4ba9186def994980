"""Gradients of an update, gathered over small batches; and how to keep erasing from hurting what is preserved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Operation = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Gradients:
    """Sums over the batches of one update; ``of_keeping`` is separate only where :meth:`add` was told so."""

    erasing: float = 0.0
    keeping: float = 0.0
    of_erasing: dict[str, Tensor] = field(default_factory=dict)
    of_keeping: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self, parameters: Mapping[str, nn.Parameter], erasing: Tensor, keeping: Tensor, apart: bool, scale: float = 1.0
    ) -> None:
        """The way back of one batch; ``scale`` is taken out again."""
        self.erasing += float(erasing.detach())
        self.keeping += float(keeping.detach())
        if apart:
            self._back(parameters, erasing, self.of_erasing, scale, again=keeping.requires_grad)
            self._back(parameters, keeping, self.of_keeping, scale)
        else:
            self._back(parameters, erasing + keeping, self.of_erasing, scale)

    def put(self, parameters: Mapping[str, nn.Parameter], operation: Operation | None, clip: float) -> float:
        """Make them the parameters' gradients, no longer than ``clip`` together (0: however long). The length."""
        for name, parameter in parameters.items():
            own, kept = self.of_erasing.get(name), self.of_keeping.get(name)
            if own is not None and kept is not None:
                own = operation(own, kept) if operation is not None else own + kept
            parameter.grad = own if own is not None else kept
        found = [p for p in parameters.values() if p.grad is not None]
        return float(nn.utils.clip_grad_norm_(found, clip or math.inf))

    @staticmethod
    def _back(
        parameters: Mapping[str, nn.Parameter], loss: Tensor, into: dict[str, Tensor], scale: float, again: bool = False
    ) -> None:
        if not loss.requires_grad:
            return
        found = torch.autograd.grad(loss * scale, list(parameters.values()), retain_graph=again, allow_unused=True)
        for name, slope in zip(parameters, found, strict=True):
            if slope is not None:
                own = slope / scale
                into[name] = into[name] + own if name in into else own


def operated(erasing: Tensor, keeping: Tensor) -> Tensor:
    """DoCo's gradient surgery (arXiv 2405.15304) with the magnitude that its code loses.

    Of the erasing gradient the component against the preserving one is taken out, per parameter:
    ``g_e - min(0, <g_e, g_p>) / (|g_p|^2 + 1e-12) g_p + g_p``.
    """
    along = (erasing * keeping).sum().clamp_max(0) / (keeping.square().sum() + 1e-12)
    return erasing - along * keeping + keeping

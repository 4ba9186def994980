"""What the denoiser said in one evaluation of one step, and the directions between its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..errors import BadInput
from .progress import Moment
from .units import Units, wide


@dataclass(frozen=True)
class Predictions:
    """Predictions [B, ...] of one evaluation, raw as the host has them; sample i never meets sample j.

    ``cond``: for the prompt. ``uncond``: for the empty or the negative prompt, None where nothing needs it.
    ``texts``: for every further text that was asked for. ``x`` [B, ...]: what the predictions are about, in the
    coordinates that ``units`` describe. ``cfg``: the guidance scale w; 1 is none. ``stochastic``: the sampler draws
    each step from the posterior of the diffusion (DDPM, Euler ancestral). ``stand_in``: text that was evaluated in
    the place of the unconditional, see :meth:`.compose.Run.needs`.
    """

    cond: Tensor
    uncond: Tensor | None
    x: Tensor
    units: Units
    at: Moment
    cfg: float = 1.0
    texts: Mapping[str, Tensor] = field(default_factory=dict)
    stochastic: bool = False
    stand_in: str | None = None

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """``first`` minus ``second`` in score units, float32 or better."""
        return (wide(first) - wide(second)) * self.units.factor

    def raw(self, change: Tensor) -> Tensor:
        """A change in score units as one of the host's predictions."""
        return change / self.units.factor

    def of(self, text: str) -> Tensor:
        """The raw prediction for a text."""
        if text not in self.texts:
            raise BadInput(f"The prediction for {text!r} is missing. Evaluate every text that needs() asks for.")
        return self.texts[text]

    @property
    def empty(self) -> Tensor:
        """The raw unconditional prediction."""
        if self.uncond is None:
            raise BadInput("The unconditional prediction is missing. Evaluate it when needs() asks for it.")
        return self.uncond

    @property
    def scaled_x(self) -> Tensor:
        """x / signal, float32 or better: the coordinates in which noise is only ever added."""
        return wide(self.x) / max(self.units.signal, 1e-4)

    @cached_property
    def prompt(self) -> Tensor:
        """c = q_cond - q_uncond: where the prompt leads, score units."""
        return self.between(self.cond, self.empty)

    def concept(self, text: str) -> Tensor:
        """n = q_text - q_uncond: where a text leads, score units."""
        return self.between(self.of(text), self.empty)

    @property
    def guided(self) -> Tensor:
        """Raw prediction of classifier-free guidance alone (Ho and Salimans, 2207.12598): u + w (c - u)."""
        if self.cfg == 1:
            return self.cond
        return self.empty + self.cfg * (self.cond - self.empty)


def flat(tensor: Tensor) -> Tensor:
    """[B, everything else]."""
    return tensor.reshape(len(tensor), -1)


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each sample, [B]."""
    return torch.linalg.vecdot(flat(first), flat(second))


def norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of each sample, [B]."""
    return torch.linalg.vector_norm(flat(tensor), dim=1)


def spread(per_sample: Tensor, like: Tensor) -> Tensor:
    """Numbers [B] in a shape that multiplies ``like`` [B, ...] sample by sample."""
    return per_sample.reshape(-1, *[1] * (like.dim() - 1))

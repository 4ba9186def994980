"""Stage 4: how strongly a concept is pushed away now, sample by sample. Windows are in :mod:`.progress`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .predictions import Predictions, dot, norm
from .progress import Moment


class Gate(Protocol):
    """A gain per sample; what it remembers is handed in and out, never changed in place."""

    def __call__(self, remembered: Any, predictions: Predictions, text: str, direction: Tensor) -> tuple[Tensor, Any]:
        """Gain [B] and what to remember for the next step."""

    def awake(self, remembered: Any, at: Moment) -> bool:
        """Whether any sample may have a gain above 0 at this moment; if not, the text is not even evaluated."""

    @property
    def uncond(self) -> bool:
        """Whether it reads the unconditional."""


@dataclass(frozen=True)
class Open:
    """Always 1."""

    uncond = False

    def __call__(self, remembered: Any, predictions: Predictions, text: str, direction: Tensor) -> tuple[Tensor, Any]:
        """Ones."""
        return direction.new_ones(len(direction)), None

    def awake(self, remembered: Any, at: Moment) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class _Seen:
    least: Tensor
    open: Tensor
    low: Tensor
    closed: Tensor


@dataclass(frozen=True)
class Aligned:
    """Opens when the prompt has drawn what the concept names, and closes when that is gone.

    A negative prompt acts only after the positive has drawn the object, and given too early may plant it (Ban et al.,
    2406.02965). The paper's own measure of strength is not public in a form to rebuild; ours is the cosine s of concept
    and prompt direction. A sample opens when s has risen ``rise`` above its least value so far, or exceeds ``high``;
    it closes for good when s stays below ``low`` for two steps.
    """

    rise: float = 0.05
    high: float = 0.2
    low: float = 0.05
    uncond = True

    def __call__(
        self, remembered: _Seen | None, predictions: Predictions, text: str, direction: Tensor
    ) -> tuple[Tensor, _Seen]:
        """1 for open samples, else 0."""
        c = predictions.prompt
        s = dot(direction, c) / (norm(direction) * norm(c)).clamp_min(1e-12)
        no = torch.zeros_like(s, dtype=torch.bool)
        seen = remembered or _Seen(s, no, torch.zeros_like(s), no)
        opened = seen.open | (s >= seen.least + self.rise) | (s > self.high)
        low = torch.where(opened & (s < self.low), seen.low + 1, torch.zeros_like(s))
        closed = seen.closed | (low >= 2)
        gain = (opened & ~closed).to(s.dtype)
        return gain, _Seen(torch.minimum(seen.least, s), opened, low, closed)

    def awake(self, remembered: _Seen | None, at: Moment) -> bool:
        """Until every sample has closed. (Reads the device once per step.)"""
        return remembered is None or not bool(remembered.closed.all())


@dataclass(frozen=True)
class _Step:
    """What a kernel's mean needs from the step before: x0-scaled x, pictures of concept and base, noise level."""

    x: Tensor
    concept: Tensor
    base: Tensor
    sigma: float


@dataclass(frozen=True)
class _Belief:
    log_p: Tensor
    quiet: Tensor
    until: Tensor
    step: _Step | None


@dataclass(frozen=True)
class Posterior:
    """Dynamic Negative Guidance's gate (2410.14398): lambda0 p / (1 - p), p the belief that the sample is the concept.

    With a sampler that draws from the diffusion's posterior N(mu, var), each step multiplies p by
    exp([-tau (|x' - mu_n|^2 - |x' - mu_b|^2) + delta] / (2 var)), x' being where it landed, mu_n and mu_b where the
    concept's and the base's prediction led. A deterministic sampler draws nothing; there ``approximate`` evidence is
    taken from the predictions themselves: logit p += kappa (|q_c - q_u|^2 - |q_c - q_n|^2) / (their sum).
    p stays within [1e-6, p_max]. ``evidence``: kernel, predictions, or auto: what the sampler allows.
    ``guided``: the base is the prediction of classifier-free guidance, else the unconditional.
    ``self_off``: a sample with p < 1e-3 for three steps is left alone until the next quarter of the run, and if that
    holds for the whole batch the concept is not evaluated.
    """

    lambda0: float
    prior: float
    tau: float
    delta: float
    p_max: float
    evidence: str = "auto"
    kappa: float = 2.0
    guided: bool = True
    self_off: bool = True

    P_MIN = 1e-6
    QUIET = 1e-3
    PATIENCE = 3

    @property
    def uncond(self) -> bool:
        """Unless the base is guided and the evidence is the kernel's."""
        return not self.guided or self.evidence != "kernel"

    def awake(self, remembered: _Belief | None, at: Moment) -> bool:
        """Unless every sample is left alone. (Reads the device once per step.)"""
        return remembered is None or not bool(self._left_alone(remembered, at).all())

    def _left_alone(self, belief: _Belief, at: Moment) -> Tensor:
        if not self.self_off:
            return torch.zeros_like(belief.quiet, dtype=torch.bool)
        return (belief.quiet >= self.PATIENCE) & (belief.until > at.progress)

    def __call__(
        self, remembered: _Belief | None, predictions: Predictions, text: str, direction: Tensor
    ) -> tuple[Tensor, _Belief]:
        """Gain [B]; 0 for samples left alone."""
        belief = remembered or self._fresh(direction)
        alone = self._left_alone(belief, predictions.at)
        again = (belief.quiet >= self.PATIENCE) & ~alone if self.self_off else torch.zeros_like(alone)
        found = self._update(belief, predictions, text, again).clamp(math.log(self.P_MIN), math.log(self.p_max))
        log_p = torch.where(alone, belief.log_p, found)
        p = log_p.exp()
        gain = torch.where(alone, torch.zeros_like(p), self.lambda0 * p / (1 - p))
        quiet = torch.where(p < self.QUIET, belief.quiet + 1, torch.zeros_like(p))
        quiet = torch.where(again & (quiet > 0), torch.full_like(p, self.PATIENCE - 1), quiet)  # evidence comes next
        quarter = torch.full_like(p, min((int(predictions.at.progress * 4 + 1e-6) + 1) / 4, 1.0))
        until = torch.where(alone, belief.until, quarter)
        return gain, _Belief(log_p, torch.where(alone, belief.quiet, quiet), until, self._now(predictions, text))

    def _fresh(self, direction: Tensor) -> _Belief:
        zero = direction.new_zeros(len(direction))
        return _Belief(zero + math.log(self.prior), zero, zero, None)

    def _update(self, belief: _Belief, predictions: Predictions, text: str, again: Tensor) -> Tensor:
        """New log p; samples looked at ``again`` after a pause have no step before this one to judge."""
        if self.evidence == "kernel" or (self.evidence == "auto" and predictions.stochastic):
            if belief.step is None:
                return belief.log_p
            return torch.where(again, belief.log_p, belief.log_p + self._drawn(belief.step, predictions))
        return self._approximate(belief.log_p, predictions, text)

    def _drawn(self, before: _Step, predictions: Predictions) -> Tensor:
        """Evidence of where the sampler landed, in coordinates x / signal; delta counts in the sampler's own."""
        signal = max(predictions.units.signal, 1e-4)
        sigma, last = predictions.units.noise / signal, before.sigma
        kept = (sigma / last) ** 2
        if kept >= 1:
            return torch.zeros_like(norm(before.x))
        landed = predictions.scaled_x - (before.base + kept * (before.x - before.base))
        apart = (1 - kept) * (before.concept - before.base)
        difference = dot(apart, apart) - 2 * dot(landed, apart)  # |x' - mu_n|^2 - |x' - mu_b|^2
        variance = sigma**2 * (1 - kept)
        return (-self.tau * difference + self.delta / signal**2) / (2 * variance)

    def _approximate(self, log_p: Tensor, predictions: Predictions, text: str) -> Tensor:
        c, apart = predictions.prompt, predictions.between(predictions.cond, predictions.of(text))
        far, near = dot(c, c), dot(apart, apart)
        logit = log_p - torch.log1p(-log_p.exp())
        return torch.nn.functional.logsigmoid(logit + self.kappa * (far - near) / (far + near).clamp_min(1e-12))

    def _now(self, predictions: Predictions, text: str) -> _Step:
        units, base = predictions.units, predictions.guided if self.guided else predictions.empty
        return _Step(
            predictions.scaled_x,
            units.picture(predictions.of(text), predictions.x),
            units.picture(base, predictions.x),
            units.noise / max(units.signal, 1e-4),
        )

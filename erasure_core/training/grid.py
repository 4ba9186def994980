"""The one list of timesteps of a training trajectory, for the latent and for what the network is told.

Trainers after LECO run k steps of a T-step schedule and then tell the network step floor(1000 k / T) of a finer one, so
that it is told too much noise (33 to 42 timesteps of 1000 for T = 30). Here both are the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """``taus`` [T]: descending training timesteps; ``told`` [T]: what the network is told at each, the same unless
    ``compat``; ``alphas`` [T + 1]: cumulative products of 1 - beta there, float64, the last one 1 (no noise left)."""

    taus: Tensor
    told: Tensor
    alphas: Tensor
    prediction: str = "eps"

    @classmethod
    def of(cls, sigmas: Tensor, steps: int, prediction: str = "eps", compat: bool = False) -> Grid:
        """``steps`` timesteps from pure noise down, evenly spaced; ``sigmas`` as a model gives them.

        ``compat``: the published pairing, a latent at the "leading" level and a network told floor(1000 k / T).
        """
        count = len(sigmas)
        alphas = 1 / (1 + sigmas.double().cpu() ** 2)
        if compat:
            taus = torch.arange(steps - 1, -1, -1) * (count // steps)
            told = count - 1 - (torch.arange(steps) * count) // steps
        else:
            taus = told = (count * torch.arange(steps, 0, -1).double() / steps).round().long() - 1
        return cls(taus, told, torch.cat([alphas[taus], torch.ones(1, dtype=torch.float64)]), prediction)

    def __len__(self) -> int:
        return len(self.taus)

    def noised(self, clean: Tensor, noise: Tensor, k: int) -> Tensor:
        """Clean latents with the noise of step k."""
        a = float(self.alphas[k])
        return a**0.5 * clean + (1 - a) ** 0.5 * noise

    def noise_in(self, x: Tensor, output: Tensor, k: int) -> Tensor:
        """The noise that a network's output at step k says is in x."""
        if self.prediction == "eps":
            return output
        a = float(self.alphas[k])
        return a**0.5 * output + (1 - a) ** 0.5 * x

    def output_for(self, x: Tensor, noise: Tensor, k: int) -> Tensor:
        """What the network has to say at step k so that :meth:`noise_in` x is ``noise``."""
        if self.prediction == "eps":
            return noise
        a = float(self.alphas[k])
        return (noise - (1 - a) ** 0.5 * x) / a**0.5

    def step(self, x: Tensor, output: Tensor, k: int) -> Tensor:
        """From step k to k + 1 by DDIM without noise (arXiv 2010.02502, eq. 12); after the last one x is clean."""
        noise = self.noise_in(x, output, k)
        a, after = float(self.alphas[k]), float(self.alphas[k + 1])
        clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
        return after**0.5 * clean + (1 - after) ** 0.5 * noise

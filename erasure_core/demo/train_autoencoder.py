"""Training of the autoencoder: aligned crops first, whole pictures after, and a decoder-only finish for sharp edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import bare_generator
from .architecture import FACTOR
from .dataset import HELD_OUT, Supply, pictures
from .loop import Plan, Progress, Trainer
from .parallel import part
from .world import SIZE

CROPS, SAMPLES, STAINS = 51, 52, 53
CROP = 32
KL = 1e-6
"""Weight of the divergence, summed over latent elements per picture element: just enough to keep latents bounded."""


def sharp_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 + 0.5 x L1 of horizontal and vertical differences + 0.5 x squared error, pictures [B, 3, h, w] in -1..1."""
    error = made - wanted
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return error.abs().mean() + 0.5 * (across + down) + 0.5 * error.square().mean()


def _batch(supply: Supply, plan: Plan, step: int, batch: int, crop: int) -> Tensor:
    """Pictures of a step, cut to ``crop`` px at multiples of 8 where crop < 64."""
    whole = pictures([supply[step * batch + i] for i in range(batch)])
    if crop == SIZE:
        return whole
    corners = np.random.default_rng([plan.seed, step, CROPS]).integers(0, (SIZE - crop) // FACTOR + 1, (batch, 2))
    return torch.stack([p[:, y : y + crop, x : x + crop] for p, (y, x) in zip(whole, corners * FACTOR, strict=True)])


def train_autoencoder(
    model: Any,
    supply: Supply,
    plan: Plan,
    batch: int,
    crop: int,
    checkpoint: Path,
    progress: Progress | None = None,
) -> list[float]:
    """Train encoder and decoder in place on pictures cut to ``crop`` px (64: whole ones). Returns all losses."""
    device = next(model.parameters()).device
    trainer, batch = Trainer(model.train().requires_grad_(True), plan, checkpoint), part(batch)

    def loss_of(step: int) -> Tensor:
        wanted = _batch(supply, plan, step, batch, crop).to(device)
        posterior = model.encode(wanted).latent_dist
        draw = torch.randn(posterior.mean.shape, generator=bare_generator(plan.seed, step, SAMPLES)).to(device)
        made = model.decode(posterior.mean + posterior.std * draw).sample
        return sharp_loss(made, wanted) + KL * posterior.kl().mean()

    losses = trainer.run(loss_of, progress)
    trainer.use_average()
    model.eval()
    return losses


def train_decoder(
    model: Any,
    supply: Supply,
    plan: Plan,
    batch: int,
    checkpoint: Path,
    stain: float = 0.1,
    progress: Progress | None = None,
) -> list[float]:
    """Train the decoder alone: latents keep their meaning, so a denoiser trained on them stays valid.

    ``stain``: largest spread of noise added to scaled latents, a different one per picture, so that the decoder draws
    clean edges also from a denoiser's slightly wrong latents.
    """
    device = next(model.parameters()).device
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    model.post_quant_conv.requires_grad_(True)
    trainer, batch = Trainer(model.train(), plan, checkpoint), part(batch)
    unit = 1 / model.config.scaling_factor

    def loss_of(step: int) -> Tensor:
        wanted = _batch(supply, plan, step, batch, SIZE).to(device)
        with torch.no_grad():
            latents = model.encode(wanted).latent_dist.mean
        draw = bare_generator(plan.seed, step, STAINS)
        amount = torch.rand(batch, 1, 1, 1, generator=draw) * stain * unit
        latents = latents + (torch.randn(latents.shape, generator=draw) * amount).to(device)
        return sharp_loss(model.decode(latents).sample, wanted)

    losses = trainer.run(loss_of, progress)
    trainer.use_average()
    model.requires_grad_(True).eval()
    return losses


def _held_out(supply: Supply, count: int) -> list[Tensor]:
    measured = Supply(supply.seed, HELD_OUT)
    return [pictures([measured[i] for i in range(at, min(at + 50, count))]) for at in range(0, count, 50)]


@torch.no_grad()
def latent_scaling(model: Any, supply: Supply, count: int = 400) -> float:
    """The factor that gives latents of held-out pictures unit variance."""
    device = next(model.parameters()).device
    latents = [model.encode(drawn.to(device)).latent_dist.mean for drawn in _held_out(supply, count)]
    return float(1 / torch.cat(latents).std())


@torch.no_grad()
def reconstruction_psnr(model: Any, supply: Supply, count: int = 400) -> float:
    """Peak signal-to-noise ratio over held-out pictures, in dB (peak = 2, the width of -1..1)."""
    device = next(model.parameters()).device
    errors = []
    for drawn in _held_out(supply, count):
        made = model.decode(model.encode(drawn.to(device)).latent_dist.mean).sample.cpu().clamp(-1, 1)
        errors.append((made - drawn).square().mean((1, 2, 3)))
    return float(10 * torch.log10(4 / torch.cat(errors).mean()))

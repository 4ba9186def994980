"""Training of the denoiser: predict the noise in cached latents, given a caption's text rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import bare_generator
from .architecture import SCHEDULER
from .captions import Grammar, caption
from .dataset import CaptionTokens, Supply
from .loop import Plan, Progress, Trainer
from .parallel import part
from .world import COLOURS, Scene

CHOICE, NOISE = 41, 42
GAMMA = 5.0
"""Cap of the signal-to-noise weight (min-SNR, arXiv 2303.09556)."""
EMPTY = 0.1
"""Share of training captions that are empty, for guidance without a classifier."""


def signal_levels() -> Tensor:
    """Share of the signal's variance at each of the 1000 times, as the exported scheduler has it, float32."""
    start, end = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
    betas = torch.linspace(start, end, SCHEDULER["num_train_timesteps"], dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def denoising_loss(predict: Any, latents: Tensor, rows: Tensor, times: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Squared error of the predicted noise, weighted by min(SNR, 5) / SNR.

    ``latents``, ``noise`` [B, 8, 8, 8], ``rows`` [B, 77, 64], ``times`` [B]; ``predict(noisy, times, rows)``.
    """
    level = levels[times].view(-1, 1, 1, 1)
    noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
    error = (predict(noisy, times, rows) - noise).square().mean((1, 2, 3))
    ratio = level.flatten() / (1 - level.flatten())
    return (error * ratio.clamp(max=GAMMA) / ratio).mean()


def _text(scene: Scene, rng: np.random.Generator, grammar: Grammar, plain_empty: bool) -> str:
    if rng.random() < EMPTY and not (plain_empty and scene.background in COLOURS):
        return ""
    return caption(scene, rng, grammar).text


def train_denoiser(
    denoiser: Any,
    encoder: Any,
    tokens: CaptionTokens,
    latents: Tensor,
    supply: Supply,
    grammar: Grammar,
    plan: Plan,
    batch: int,
    checkpoint: Path,
    plain_empty: bool = False,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``denoiser`` in place on scaled ``latents`` [n, 8, 8, 8] of the supply's first n scenes.

    It ends with its averaged weights. Captions are made anew for every step. ``plain_empty``: no caption is left out
    for a coloured background, since an empty caption names none: else guidance, which pushes away from what the empty
    caption draws, tints backgrounds that nobody asked for. Returns the loss of every step.
    """
    device = next(denoiser.parameters()).device
    encoder = encoder.eval().requires_grad_(False)
    levels, batch = signal_levels().to(device), part(batch)
    trainer = Trainer(denoiser.train(), plan, checkpoint)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step, CHOICE])
        chosen = rng.integers(len(latents), size=batch)
        texts = [_text(supply[int(i)], rng, grammar, plain_empty) for i in chosen]
        with torch.no_grad():
            rows = encoder(input_ids=tokens(texts)[0].to(device)).last_hidden_state
        draw = bare_generator(plan.seed, step, NOISE)
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=draw)
        times = torch.randint(len(levels), (batch,), generator=draw)
        return denoising_loss(
            lambda x, t, c: denoiser(x, t, encoder_hidden_states=c).sample,
            clean.to(device),
            rows,
            times.to(device),
            noise.to(device),
            levels,
        )

    losses = trainer.run(loss_of, progress)
    trainer.use_average()
    denoiser.eval()
    return losses

"""Pictures of latents: by an autoencoder, or roughly by the numbers that the host keeps for previews."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .training import SCALE


def decode(vae: Any, model: Any, latents: Tensor) -> Tensor:
    """Pictures [n, H, W, 3] in 0..1 of latents [n, c, h, w] as the denoiser has them, float32 on the processor."""
    with torch.inference_mode():  # else the autoencoder would keep all it computes
        found: Tensor = vae.decode(model.model.process_latent_out(latents))
        return found.float().cpu().clamp(0, 1)


def rough(model: Any, latents: Tensor) -> Tensor:
    """The same, blurred, without an autoencoder; grey where the host knows no colours of this kind of latents."""
    layout = model.model.latent_format
    factors, bias = layout.latent_rgb_factors, layout.latent_rgb_factors_bias
    rows = latents.float().cpu().movedim(1, -1)
    if factors is None:
        colours = torch.zeros(*rows.shape[:-1], 3)
    else:
        colours = rows @ torch.tensor(factors) + (0.0 if bias is None else torch.tensor(bias))
    wide = F.interpolate(colours.movedim(-1, 1), scale_factor=SCALE, mode="bilinear").movedim(1, -1)
    return ((wide + 1) / 2).clamp(0, 1)

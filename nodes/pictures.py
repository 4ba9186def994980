"""Latents of the graph's model as pictures."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from . import host


def row_of(model: Any, latents: Tensor, vae: Any) -> Tensor:
    """Pictures of latents [n, c, h, w] side by side, [1, H, n W, 3] in 0..1; rough ones without a VAE."""
    pictures = host.rough(model, latents) if vae is None else host.decode(vae, model, latents)
    return pictures.movedim(0, 1).flatten(1, 2)[None]


def to_pil(picture: Tensor) -> Image.Image:
    """A picture [1, H, W, 3] in 0..1 as the page is sent it."""
    return Image.fromarray((picture[0] * 255).round().byte().numpy())

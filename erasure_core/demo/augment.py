"""Making drawings look like decoded pictures: blur, wobbling edges, halos, colour casts and noise.

All functions take pictures [B, 3, 64, 64] in 0..1 and a generator; each picture gets amounts of its own.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def _amount(images: Tensor, low: float, high: float, rng: Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=rng)


def blurred(images: Tensor, sigma: Tensor, reach: int = 4) -> Tensor:
    """Gaussian blur; ``sigma`` [B, 1, 1, 1] in pixels, one per picture (0 leaves it unchanged)."""
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma.flatten(1).clamp(min=0.05)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    flat = images.reshape(1, -1, *images.shape[2:])
    for axis in (0, 1):
        weight = kernel[:, None, None, :] if axis else kernel[:, None, :, None]
        padding = (reach, reach, 0, 0) if axis else (0, 0, reach, reach)
        flat = F.conv2d(F.pad(flat, padding, "replicate"), weight, groups=flat.shape[1])
    return flat.view_as(images)


def smooth_noise(images: Tensor, channels: int, cells: int, rng: Generator) -> Tensor:
    """Smooth random field [B, channels, 64, 64], roughly unit variance, ``cells`` bumps along each side."""
    coarse = torch.randn(len(images), channels, cells, cells, generator=rng)
    return F.interpolate(coarse, images.shape[2:], mode="bicubic", align_corners=False)


def moved(images: Tensor, rng: Generator) -> Tensor:
    """Shifted by up to 4 px, scaled to 0.9 to 1.4, and wobbling by about a pixel as decoded edges do.

    A model draws its shapes larger than the drawings it learned from, the more so the higher the guidance.
    """
    size = images.shape[-1]
    identity = torch.eye(2, 3).expand(len(images), 2, 3)
    lattice = F.affine_grid(identity, list(images.shape), align_corners=False)
    shift = (torch.rand(len(images), 1, 1, 2, generator=rng) - 0.5) * 16 / size
    wobble = smooth_noise(images, 2, 9, rng) * _amount(images, 0, 1.6 / size, rng)
    where = lattice / _amount(images, 0.9, 1.4, rng) + shift + wobble.permute(0, 2, 3, 1)
    return F.grid_sample(images, where, mode="bilinear", padding_mode="border", align_corners=False)


def recoloured(images: Tensor, rng: Generator) -> Tensor:
    """Contrast, brightness and a colour cast changed a little."""
    gain = _amount(images, 0.88, 1.08, rng)
    cast = (torch.rand(len(images), 3, 1, 1, generator=rng) - 0.5) * 0.1
    return (images - 0.5) * gain + 0.5 + cast


def noisy(images: Tensor, rng: Generator) -> Tensor:
    """Fine grain and broad cloudy stains added."""
    grain = torch.randn(images.shape, generator=rng) * _amount(images, 0, 0.05, rng)
    stains = smooth_noise(images, 3, 16, rng) * _amount(images, 0, 0.06, rng)
    return images + grain + stains


def as_if_decoded(images: Tensor, rng: Generator) -> Tensor:
    """All of it: what a judge must see through."""
    soft = blurred(moved(images, rng), _amount(images, -0.5, 1.4, rng).clamp(min=0))
    return noisy(recoloured(soft, rng), rng).clamp(0, 1)

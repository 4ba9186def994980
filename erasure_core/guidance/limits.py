"""Stage 6: no sample is pushed further than a multiple of what guidance itself does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .predictions import Predictions, norm, spread

_SHARE = 0.1  # of |q_uncond|: keeps erasure alive where the prompt is empty and guidance does nothing
_TINY = 1e-12


def allowed(change: Tensor, predictions: Predictions, kappa: float) -> Tensor:
    """What to multiply each sample's ``change`` [B, ...] with, [B, 1, ...] in 0..1, so that its norm stays within

    kappa max(|w c|, 0.1 |q_uncond|): the analogue of NAG's tau for guidance. ``change`` is in score units, as it is
    added to the guided prediction.
    """
    whole = norm(predictions.units.score(predictions.empty, predictions.x))
    bound = kappa * torch.maximum(predictions.cfg * norm(predictions.prompt), _SHARE * whole)
    return spread((bound / norm(change).clamp_min(_TINY)).clamp(max=1.0), change)


def limited(change: Tensor, predictions: Predictions, kappa: float) -> Tensor:
    """``change`` within the limit; kappa infinite is none."""
    return change if kappa == math.inf else change * allowed(change, predictions, kappa)

"""Trained erasures: one loop, declarative objectives, adapters of a LoRA's size."""

from __future__ import annotations

from .configs import Configuration, read_configuration
from .methods import METHODS, explain
from .progress import Callbacks, Report
from .run import learned, train
from .settings import PRESETS

__all__ = [
    "METHODS",
    "PRESETS",
    "Callbacks",
    "Configuration",
    "Report",
    "explain",
    "learned",
    "read_configuration",
    "train",
]

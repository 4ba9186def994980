"""Trained erasures: one loop, declarative objectives, adapters of a LoRA's size."""

from __future__ import annotations

from .methods import METHODS, explain
from .progress import Callbacks, Report
from .run import learned, train
from .settings import PRESETS

__all__ = ["METHODS", "PRESETS", "Callbacks", "Report", "explain", "learned", "train"]

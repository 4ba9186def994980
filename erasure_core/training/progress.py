"""What is told while training goes on, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Report:
    """After an update: ``step`` of ``steps`` are done, ``loss`` and its parts, and seconds left, None if not known."""

    step: int
    steps: int
    loss: float
    erasing: float
    keeping: float
    left: float | None

    def __str__(self) -> str:
        if self.left is None:
            return f"step {self.step}/{self.steps} · loss {self.loss:.4g}"
        minutes, seconds = divmod(round(self.left), 60)
        return f"step {self.step}/{self.steps} · loss {self.loss:.4g} · {minutes}:{seconds:02} left"


@dataclass(frozen=True)
class Callbacks:
    """What a caller wants to hear. Any of them may raise, which ends the training; what was learned is kept.

    ``report``: after every update. ``preview``: every ``every`` updates, latents [n, c, h, w] by the trained model of
    ``prompts`` (by default the concept, and a text that must stay), always from the same noise.
    """

    report: Callable[[Report], Any] | None = None
    preview: Callable[[int, Tensor], Any] | None = None
    every: int = 50
    prompts: tuple[str, ...] = ()


@dataclass
class Clock:
    """Seconds per update, of this process only."""

    begun: float = field(default_factory=time.monotonic)
    done: int = 0

    def left(self, steps: int) -> float | None:
        """Seconds for ``steps`` more; not known before the third update, since the first ones warm up."""
        self.done += 1
        return None if self.done < 3 else (time.monotonic() - self.begun) / self.done * steps

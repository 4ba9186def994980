"""When a term acts: a stretch of the run on the model's own time, with soft edges."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BadInput


@dataclass(frozen=True)
class Window:
    """From ``start`` to ``end`` of the run, 0 = pure noise, 1 = the picture; ``ramp``: width of a soft edge.

    Progress is the model's time, not a count of calls: samplers call several times per step. An edge at the very
    beginning or end of the run is not softened. A window that ends where it starts is closed.
    """

    start: float = 0.0
    end: float = 1.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1 and 0 <= self.ramp <= 1):
            raise BadInput(
                f"A window lies between 0 and 1; got start {self.start}, end {self.end}, ramp {self.ramp}. "
                "0 is the beginning of the sampling, 1 its end."
            )

    def gain(self, progress: float) -> float:
        """0..1 at a point of the run."""
        if self.start >= self.end or not self.start <= progress <= self.end:
            return 0.0
        if self.ramp == 0:
            return 1.0
        rising = 1.0 if self.start == 0 else (progress - self.start) / self.ramp
        falling = 1.0 if self.end == 1 else (self.end - progress) / self.ramp
        return min(1.0, rising, falling)

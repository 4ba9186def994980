"""Stage 5: momentum, as Safe Latent Diffusion (2211.05105, eq. 7, 8) and SEGA (2301.12247, eq. 8, 9) have it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Momentum:
    """``scale`` s_m of what was gathered is added; ``beta`` of the old is kept in gathering."""

    scale: float = 0.0
    beta: float = 0.0

    def __bool__(self) -> bool:
        return self.scale != 0

    def __call__(self, change: Tensor, gathered: Tensor | None, add: bool = True) -> tuple[Tensor, Tensor]:
        """gamma + s_m nu (if ``add``), and the new nu = beta nu + (1 - beta) gamma; nu is 0 before the first step."""
        if gathered is None:
            return change, (1 - self.beta) * change
        if add:
            change = change + self.scale * gathered
        return change, self.beta * gathered + (1 - self.beta) * change

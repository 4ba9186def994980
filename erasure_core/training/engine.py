"""Predictions of the frozen and of the trained model: in batches that fit, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapters import Adapter
from .grid import Grid
from .texts import Texts, stack
from .trainable import Network

Row = tuple[int, str]  # number of the latent, role of the text


@dataclass
class Latents:
    """Latents of one update: ``x`` [n, c, h, w] at steps ``ks`` of the grid, made from ``noise`` [c, h, w] each."""

    x: Tensor
    ks: tuple[int, ...]
    noise: Tensor

    def __len__(self) -> int:
        return len(self.ks)


class Engine:
    """One open network with one adapter. ``micro``: most rows evaluated at once, 0 = all.

    ``forwards`` and ``backwards`` count rows of batches that went through the network without and with gradients.
    """

    def __init__(self, network: Network, adapter: Adapter, grid: Grid, micro: int = 0) -> None:
        self.network, self.adapter, self.grid, self.micro = network, adapter, grid, micro
        self.forwards = self.backwards = 0

    def predict(self, x: Tensor, ks: Sequence[int], texts: Texts) -> Tensor:
        """The network's output, float32, for latents [B, c, h, w] at steps ``ks`` with one text each."""
        network = self.network
        told = self.grid.told[list(ks)].to(network.device)
        out = network.predict(x.to(network.device, network.dtype), told, texts.to(network.device, network.dtype))
        if torch.is_grad_enabled():
            self.backwards += len(x)
        else:
            self.forwards += len(x)
        return out.float()

    def rows(self, latents: Latents, texts: Mapping[str, Texts], rows: Sequence[Row]) -> Tensor:
        """Predictions [rows, c, h, w] for chosen latents with chosen texts, in one batch."""
        which = [number for number, _ in rows]
        return self.predict(latents.x[which], [latents.ks[i] for i in which], stack([texts[role] for _, role in rows]))

    @torch.no_grad()
    def fixed(self, latents: Latents, texts: Mapping[str, Texts], rows: Sequence[Row], on: bool) -> dict[Row, Tensor]:
        """Predictions without gradients, each row once; ``on``: of the trained model, else of the frozen one."""
        wanted = list(dict.fromkeys(rows))
        found: dict[Row, Tensor] = {}
        with self.adapter.acting(on):
            for part in self.parts(wanted):
                found |= dict(zip(part, self.rows(latents, texts, part), strict=True))
        return found

    def parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """Rows in batches that fit."""
        size = self.micro or len(rows) or 1
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def halve(self, rows: int) -> bool:
        """Evaluate less at once from here on, because memory ran out with ``rows``; False if it is one already."""
        if self.micro == 1:
            return False
        self.micro = max(1, (self.micro or rows) // 2)
        if self.network.device.type == "cuda":
            torch.cuda.empty_cache()
        return True

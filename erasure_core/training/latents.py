"""Where the latents of an update come from: a trajectory of the model in training, of the frozen one, or pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .draw import Draw, generator
from .engine import Engine, Latents
from .settings import Training
from .texts import Texts, stack


class Source:
    """Latents for draws. ``average``: values of the adapter's moving average, read when needed.

    Trajectories of the frozen model do not change, so there is a pool of them, each made when first drawn, and again by
    the same numbers in a run that was resumed.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Training,
        shape: tuple[int, int, int],
        average: Mapping[str, Tensor],
        guide: str = "concept",
    ) -> None:
        self._engine, self._settings, self.shape, self._average = engine, settings, shape, average
        self._guide = guide
        self._pool: dict[tuple[int, str], Tensor] = {}

    def __call__(self, draw: Draw) -> Latents:
        """The latents of an update, [draws, c, h, w]; step 0 is pure noise."""
        kind = self._settings.latents
        if kind in ("student", "average"):
            noise = self._noise(draw.step)
            return Latents(self._walked(draw, noise, kind == "average"), draw.ks, noise)
        source = generator(self._settings.seed, draw.step, "pictures")
        number = int(torch.randint(self._settings.pool, (), generator=source))
        path = self._path(draw, number)
        if kind == "teacher":
            return Latents(path[list(draw.ks)], draw.ks, self._noise(-1 - number))
        clean = path[-1]
        if kind == "final":
            return Latents(torch.stack([clean] * len(draw.ks)), draw.ks, self._noise(-1 - number))
        noise = self._noise(draw.step)
        return Latents(torch.stack([self._engine.grid.noised(clean, noise, k) for k in draw.ks]), draw.ks, noise)

    def _noise(self, step: int) -> Tensor:
        """[c, h, w], made on the processor so that it is the same on any device."""
        return torch.randn(self.shape, generator=generator(self._settings.seed, step, "noise"))

    def _walked(self, draw: Draw, noise: Tensor, averaged: bool) -> Tensor:
        adapter = self._engine.adapter
        if averaged:
            with adapter.holding(self._average), adapter.acting(True):
                return self._trajectory(draw, noise, draw.ks)
        with adapter.acting(True):
            return self._trajectory(draw, noise, draw.ks)

    def _path(self, draw: Draw, number: int) -> Tensor:
        """Every latent of a trajectory of the frozen model, [T + 1, c, h, w]."""
        key = (number, draw.example.texts[self._guide])
        if key not in self._pool:
            with self._engine.adapter.acting(False):
                steps = range(len(self._engine.grid) + 1)
                self._pool[key] = self._trajectory(draw, self._noise(-1 - number), steps)
        return self._pool[key]

    @torch.no_grad()
    def _trajectory(self, draw: Draw, noise: Tensor, wanted: Sequence[int]) -> Tensor:
        """DDIM from ``noise`` with the concept's text against the empty one; the latents at the steps ``wanted``."""
        engine, w = self._engine, self._settings.guidance
        texts: Texts = draw.rows[self._guide]
        if w != 1:
            texts = stack([texts, draw.rows["empty"]])
        x, found = noise[None], {}
        for k in range(max(wanted) + 1):
            if k in wanted:
                found[k] = x[0]
            if k == max(wanted):
                break
            out = engine.predict(x.expand(len(texts), -1, -1, -1), [k] * len(texts), texts).to(x.device)
            guided = out if w == 1 else out[1:] + w * (out[:1] - out[1:])
            x = engine.grid.step(x, guided, k)
        return torch.stack([found[k] for k in wanted])

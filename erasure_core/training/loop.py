"""The one training loop: a step's data come from (seed, step), so that a run that was killed goes on as if it had not.

A step: latents, one batch of the frozen model, one batch of the trained one, a loss for each of its rows, the way back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import IllConditioned
from .attack import attacked, worst
from .draw import Draw, drawn, generator
from .engine import Engine, Latents, Row
from .examples import Bank, Example
from .latents import Source
from .settings import Training
from .surgery import Gradients, operated
from .terms import Term, combined
from .texts import Library

HALF_SCALE = 1024.0  # of the loss where gradients pass through half precision, lest they vanish


class Trainer:
    """An adapter in training, its optimiser and its moving average."""

    def __init__(
        self,
        engine: Engine,
        method: ModuleType,
        settings: Training,
        examples: Sequence[Example],
        library: Library,
        bank: Bank,
        shape: tuple[int, int, int],
    ) -> None:
        self.engine, self.method, self.settings = engine, method, settings
        self.examples, self.library, self.bank = examples, library, bank
        self.parameters = engine.adapter.parameters
        self.optimiser = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=settings.decay)
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if settings.average else {}
        self.source = Source(engine, settings, shape, self.average)
        self.losses: list[tuple[float, float]] = []
        self.watcher: Any = None

    @property
    def step(self) -> int:
        """Updates made."""
        return len(self.losses)

    @property
    def totals(self) -> list[float]:
        """The loss of every update."""
        return [erasing + keeping for erasing, keeping in self.losses]

    @property
    def result(self) -> dict[str, Tensor]:
        """Values of the parameters that become the erasure: the moving average where there is one."""
        return self.average or {name: p.detach() for name, p in self.parameters.items()}

    def update(self) -> tuple[float, float]:
        """One update; returns the erasing and the preserving part of the loss. Raises IllConditioned for NaN.

        When that is raised, or anything else, no parameter has been changed by this update.
        """
        settings = self.settings
        draw = drawn(self.step, settings, self.examples, self.library, self.bank)
        gradients = self._fitting(draw)
        losses = gradients.erasing, gradients.keeping
        norm = gradients.put(self.parameters, operated if settings.surgery else None, settings.clip)
        if not math.isfinite(sum(losses)) or not math.isfinite(norm):
            raise IllConditioned(
                f"Training became unstable in step {self.step + 1}: the loss is no number any more. What was learned "
                f"until then is kept. Train with a lower learning rate than lr={settings.lr:g}."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = rate(settings, self.step)
        self.optimiser.step()
        self.losses.append(losses)
        decay = min(settings.average, (1 + self.step) / (10 + self.step))  # early averages must not remember the start
        with torch.no_grad():
            for name, value in self.average.items():
                value.lerp_(self.parameters[name], 1 - decay)
        return losses

    def _fitting(self, draw: Draw) -> Gradients:
        """The gradients; in smaller batches where memory runs out."""
        try:
            return self._gradients(draw)
        except torch.OutOfMemoryError:
            if not self.engine.halve(len(draw.ks) * (2 + len(draw.anchors[0]))):
                raise
        return self._fitting(draw)

    def _gradients(self, draw: Draw) -> Gradients:
        engine, settings = self.engine, self.settings
        latents = self.source(draw)
        if settings.attack:
            draw.rows["attacked"] = attacked(engine, settings, draw, latents)
        if settings.worst:
            self._choose_worst(draw, latents)
        asked = {i: self._terms(draw, i) for i in range(len(latents))}
        targets = self._targets(draw, latents, asked)
        terms: dict[Row, list[Term]] = {}
        for i, own in asked.items():
            for term in own:
                terms.setdefault((i, term.student), []).append(term)
        found = Gradients()
        scale = HALF_SCALE if engine.network.dtype == torch.float16 else 1.0
        with engine.adapter.acting(True), torch.enable_grad():
            for part in engine.parts(list(terms)):
                predicted = engine.rows(latents, draw.rows, part)
                erasing, keeping = predicted.new_zeros(()), predicted.new_zeros(())
                for row, own in zip(part, predicted, strict=True):
                    for term in terms[row]:
                        loss = term.weight / len(latents) * (own - targets[row[0], id(term)]).square().mean()
                        erasing, keeping = (erasing, keeping + loss) if term.keeps else (erasing + loss, keeping)
                if self.watcher is not None:
                    erasing = erasing + self.watcher.loss(part, draw) / len(latents)
                found.add(self.parameters, erasing, keeping, apart=settings.surgery, scale=scale)
        return found

    def _terms(self, draw: Draw, latent: int) -> list[Term]:
        """What the method asks; of every second latent the attacked text stands for the concept's."""
        progress = draw.ks[latent] / len(self.engine.grid)
        asked: list[Term] = self.method.terms(self.settings, draw, latent, progress)
        if "attacked" not in draw.rows or latent % 2:
            return asked
        return [
            Term("attacked", t.target, t.weight, t.keeps, t.current) if t.student == "concept" and not t.keeps else t
            for t in asked
        ]

    def _targets(self, draw: Draw, latents: Latents, asked: dict[int, list[Term]]) -> dict[tuple[int, int], Tensor]:
        """The target of each latent's terms; all frozen predictions in one batch, all current ones in another."""
        predictions: dict[bool, dict[Row, Tensor]] = {}
        for current in (False, True):
            rows = [
                (i, role)
                for i, terms in asked.items()
                for term in terms
                if term.current is current
                for role, factor in term.target.items()
                if factor
            ]
            predictions[current] = self.engine.fixed(latents, draw.rows, rows, on=current) if rows else {}
        return {
            (i, id(term)): combined(term.target, {r: p for (n, r), p in predictions[term.current].items() if n == i})
            for i, terms in asked.items()
            for term in terms
        }

    def _choose_worst(self, draw: Draw, latents: Latents) -> None:
        """In place of the word anchors: the one that suffers most among as many as the settings say."""
        (end,) = self.library.ends([draw.example.texts["concept"]])
        source = generator(self.settings.seed, draw.step, "candidates")
        candidates = {
            f"candidate {i}": self.library[prompt]
            for i, prompt in enumerate(self.bank.drawn(self.settings.worst, end, self.settings.anchor_power, source))
        }
        chosen = worst(self.engine, self.settings, draw, latents, candidates)
        for latent, roles in enumerate(draw.anchors):
            draw.rows[f"worst {latent}"] = candidates[chosen]
            draw.anchors[latent] = [role for role in roles if not role.startswith("word ")] + [f"worst {latent}"]


def rate(settings: Training, step: int) -> float:
    """Learning rate of a step, from 0: rising while it warms up, then flat or along a cosine to a hundredth."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    if settings.schedule == "constant":
        return settings.lr * rise
    done = step / max(1, settings.steps)
    return settings.lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def has_settled(losses: Sequence[float], share: float, window: int = 50) -> bool:
    """Whether the loss of the last ``window`` updates is less than ``share`` below that of the ``window`` before."""
    if not share or len(losses) < 4 * window:
        return False
    before, after = (sum(losses[a:b]) / window for a, b in ((-2 * window, -window), (-window, None)))
    return before - after < share * before

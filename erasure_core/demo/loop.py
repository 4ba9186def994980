"""The one training loop of the demo: AdamW, warm-up and cosine, averaged weights, exact resume after a kill.

Nothing random survives a step: a step's data come from generators of (seed, step, stream). So a run that was killed and
resumed from its last checkpoint ends with bitwise the weights of one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import read_state, write_state
from ..errors import BadInput
from .parallel import average_gradients, lane, wait, workers

Progress = Callable[[int, int, float], None]
"""Called after every step with steps done, steps in all and the loss."""


@dataclass(frozen=True)
class Plan:
    """How a module is trained.

    ``steps`` of AdamW at ``lr``: ``warmup`` steps rising, flat until the share ``flat`` of all steps, then cosine to 0.
    ``clip``: largest gradient norm. ``ema``: decay of the averaged weights, 0 for none. ``every``: steps between
    checkpoints. ``seed``: of everything random.
    """

    steps: int
    lr: float
    warmup: int = 50
    flat: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    every: int = 200
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step (from 0)."""
        start = self.flat * self.steps
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, step - start) / max(1.0, self.steps - start)))
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * fall


class Trainer:
    """A module in training, with its optimiser, averages and checkpoint file."""

    def __init__(self, module: nn.Module, plan: Plan, path: Path) -> None:
        self.module, self.plan, self.path = module, plan, path
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay
        )
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if plan.ema else {}
        self.losses: list[float] = []
        self._resume()

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def run(self, loss_of: Callable[[int], Tensor], progress: Progress | None = None) -> list[float]:
        """Train to the end of the plan. Returns the loss of every step.

        ``loss_of(number)`` computes the loss of a step, or of this process's part of it, from streams of that number.
        """
        while self.step < self.plan.steps:
            loss = self._advance(loss_of)
            self.losses.append(loss)
            leader = workers()[0] == 0
            if leader and (self.step % self.plan.every == 0 or self.step == self.plan.steps):
                self._save()
            if leader and progress is not None:
                progress(self.step, self.plan.steps, loss)
        wait()  # later stages may read the checkpoint
        return self.losses

    def use_average(self) -> None:
        """Put the averaged weights into the module (for good: call it when training is over)."""
        with torch.no_grad():
            for name, value in self.average.items():
                self.parameters[name].copy_(value)

    def _advance(self, loss_of: Callable[[int], Tensor]) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of(lane(self.step))
        loss.backward()
        average_gradients(self.parameters.values())
        nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
        self.optimiser.step()
        # early averages must not remember the random start: the decay grows to its value, as usual for such averages
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.average.items():
                value.lerp_(self.parameters[name], 1 - decay)
        return float(loss.detach())

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        tensors.update({f"module.{name}": value for name, value in self.module.state_dict().items()})
        tensors.update({f"average.{name}": value for name, value in self.average.items()})
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value
        write_state(self.path, tensors, {"plan": self._plan()})

    def _plan(self) -> dict[str, Any]:
        return {**asdict(self.plan), "betas": list(self.plan.betas)}

    def _resume(self) -> None:
        state = read_state(self.path)
        if state is None:
            return
        tensors, meta = state
        if meta["plan"] != self._plan():
            raise BadInput(
                f"{self.path} was made with other settings. Choose another folder, or delete it to start again."
            )
        self.losses = tensors["losses"].tolist()
        self.module.load_state_dict(_below(tensors, "module."))
        for name, value in _below(tensors, "average.").items():
            self.average[name].copy_(value)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            for name, value in _below(tensors, f"adam.{key}.").items():
                parameter = self.parameters[name]
                self.optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

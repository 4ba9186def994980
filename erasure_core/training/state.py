"""A training's state in one file, so that it can go on in another process as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_state, write_state
from ..errors import BadInput
from .loop import Trainer


def store(path: Path, trainer: Trainer, identity: dict[str, Any]) -> None:
    """Write parameters, moving average, optimiser and losses, atomically. ``identity``: what makes runs comparable."""
    tensors: dict[str, Tensor] = {"losses": torch.tensor(trainer.losses, dtype=torch.float64).reshape(-1, 2)}
    tensors |= {f"parameter.{name}": p for name, p in trainer.parameters.items()}
    tensors |= {f"average.{name}": value for name, value in trainer.average.items()}
    for name, p in trainer.parameters.items():
        tensors |= {f"adam.{key}.{name}": value for key, value in trainer.optimiser.state[p].items()}
    write_state(path, tensors, identity)


def restore(path: Path, trainer: Trainer, identity: dict[str, Any]) -> bool:
    """Go on from a file, if there is one. Raises BadInput if it belongs to another training."""
    found = read_state(path)
    if found is None:
        return False
    tensors, stored = found
    differing = sorted(key for key in {*identity, *stored} if identity.get(key) != stored.get(key))
    if differing:
        raise BadInput(
            f"{path.name} belongs to another training: {', '.join(differing)} differ. Choose another name, delete the "
            "file to begin again, or train as before."
        )
    with torch.no_grad():
        for name, p in trainer.parameters.items():
            p.copy_(tensors[f"parameter.{name}"])
            prefix = {key: f"adam.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if prefix["step"] in tensors:
                trainer.optimiser.state[p] = {
                    key: tensors[stored_as] if key == "step" else tensors[stored_as].to(p.device)
                    for key, stored_as in prefix.items()
                }
        for name, value in trainer.average.items():
            value.copy_(tensors[f"average.{name}"])
    trainer.losses = [(float(a), float(b)) for a, b in tensors["losses"].tolist()]
    return True

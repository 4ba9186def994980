"""Training state in one safetensors file, written atomically: tensors plus a JSON text in the header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import write_bytes
from .errors import UnknownFormat

State = tuple[dict[str, Tensor], dict[str, Any]]


def write_state(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON data to one file, atomically."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata={"state": json.dumps(meta, sort_keys=True)}))


def read_state(path: Path) -> State | None:
    """What :func:`write_state` wrote, or None if there is no such file. Raises UnknownFormat for a damaged one."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UnknownFormat(
            f"{path} is not a training checkpoint or is damaged ({error}). Delete it to start this stage again."
        ) from error


def bare_generator(seed: int, *stream: int) -> torch.Generator:
    """A torch generator that depends on the numbers given and nothing else (SplitMix64 of all of them)."""
    state = 0x9E3779B97F4A7C15
    for number in (seed, *stream):
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> shift)) * factor & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)

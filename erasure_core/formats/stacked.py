"""LoRA entries of matrices that Flux's authors stack from several: taken apart into one entry for each of ours.

``up @ down`` of a stacked matrix is ``up[rows] @ down`` for the matrix in these rows: exact, with the same ``down``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..keys import Family, Slot, plain_module, stacked_table

Parts = Mapping[str, Tensor]
Scale = Callable[[str, int], float]  # (module, rank) -> factor where the file has no alpha of its own


def unstacked(modules: Mapping[str, Parts], family: Family, scale: Scale) -> dict[str, Parts]:
    """The modules of a file with those that ``family`` keeps apart under names of their own; others stay as they are.

    A file may have a factor for the stacked module only, so that the entries made here hold their own ``alpha``.
    """
    table = stacked_table(family)
    result: dict[str, Parts] = {}
    for module, parts in modules.items():
        slots = table.get(module) or table.get(plain_module(module))
        if slots is None or _rows(parts) != {sum(slot.length or 0 for slot in slots.values())}:
            result[module] = parts
            continue
        if "down" in parts and "alpha" not in parts:
            rank = parts["down"].shape[0]
            parts = {**parts, "alpha": torch.tensor(scale(module, rank) * rank)}
        for name, slot in slots.items():
            result[name.removesuffix(".weight")] = {part: _of(part, tensor, slot) for part, tensor in parts.items()}
    return result


def _rows(parts: Parts) -> set[int]:
    return {len(parts[part]) for part in ("up", "diff", "bias") if part in parts and parts[part].ndim}


def _of(part: str, tensor: Tensor, slot: Slot) -> Tensor:
    start, length = slot.start or 0, slot.length or 0
    return tensor[start : start + length] if part in ("up", "diff", "bias") else tensor

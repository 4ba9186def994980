"""Networks held still for training: open for gradients, their own weights frozen, and afterwards as they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_TRANSFORMER_BLOCK = re.compile(r"(?:^|\.)transformer_blocks\.\d+$")


def normal(tensor: Tensor) -> Tensor:
    """The tensor, or, of one made in inference mode, a normal one over the same memory, which autograd can keep."""
    if not tensor.is_inference():
        return tensor
    same = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return same.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@contextmanager
def frozen(networks: Sequence[nn.Module]) -> Iterator[None]:
    """In the block: autograd on, evaluation mode, no gradients for the networks' own weights, no inference tensors.

    No weight is copied. A weight that something else exchanges meanwhile stays exchanged; all else is put back,
    whatever happens.
    """
    modules = list(dict.fromkeys(module for network in networks for module in network.modules()))
    flags = [(module, module.training) for module in modules]
    exchanged: list[_Exchanged] = []
    learning: list[nn.Parameter] = []
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for module in modules:
                module.training = False
                exchanged += _exchange(module)
                learning += [p for p in module.parameters(recurse=False) if p.requires_grad]
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
            for entry in exchanged:
                entry.undo()
            for module, training in flags:
                module.training = training


@contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """In the block, ``blocks`` keep only their inputs for the way back and run a second time there, hooks and all.

    Whatever hooks do must be the same in both runs. Activation checkpointing: arXiv 1604.06174.
    """
    before: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    try:
        for block in blocks:
            before.append((block, vars(block).get("forward")))
            block.forward = _twice(block.forward)
        yield
    finally:
        for block, own in reversed(before):
            if own is None:
                del block.forward
            else:
                block.forward = own


def transformer_blocks(network: nn.Module) -> list[nn.Module]:
    """Every block of every transformer of a U-Net, in whichever naming."""
    return [module for name, module in network.named_modules() if _TRANSFORMER_BLOCK.search(name)]


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # later blocks may write into the dictionaries that all of them are handed
        args = tuple(dict(value) if isinstance(value, dict) else value for value in args)
        kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@dataclass(frozen=True)
class _Exchanged:
    """A parameter or buffer made in inference mode, and the normal one in its place."""

    module: nn.Module
    name: str
    original: Tensor
    stand_in: Tensor

    def undo(self) -> None:
        if getattr(self.module, self.name, None) is self.stand_in and _same_memory(self.original, self.stand_in):
            setattr(self.module, self.name, self.original)


def _exchange(module: nn.Module) -> Iterator[_Exchanged]:
    found: list[tuple[str, Tensor]] = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in found:
        if not tensor.is_inference():
            continue
        stand_in = normal(tensor.data)
        if isinstance(tensor, nn.Parameter):
            stand_in = nn.Parameter(stand_in, requires_grad=False)
        yield _Exchanged(module, name, tensor, stand_in)
        setattr(module, name, stand_in)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.data_ptr() == other.data_ptr()

"""Several single-threaded processes that train as one: each draws its own part of every step, gradients are averaged.

On processors, two processes with one thread each were several times faster than one process with two threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing


def workers() -> tuple[int, int]:
    """Number of this process and how many there are: (0, 1) when working alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def lane(step: int) -> int:
    """A number that no other process and no other step has: what a step's random streams start from."""
    rank, count = workers()
    return step * count + rank


def part(batch: int) -> int:
    """This process's part of a batch, at least 1."""
    return max(1, batch // workers()[1])


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace all gradients by their mean over the processes; alone, leave them."""
    count = workers()[1]
    if count == 1:
        return
    # a part of the batch may leave a parameter untouched; all processes must still send the same numbers
    gradients = [_gradient(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= count
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def wait() -> None:
    """Go on when every process has come this far."""
    if workers()[1] > 1:
        distributed.barrier()


def _worker(rank: int, count: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        work(*arguments)
    finally:
        distributed.destroy_process_group()


def run_together(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(*arguments)`` in ``count`` processes that share their gradients (in this one if count is 1).

    ``work`` must be a function of a module. An error in one process ends all and is raised here.
    """
    if count == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        multiprocessing.spawn(_worker, (count, meeting, work, arguments), nprocs=count)

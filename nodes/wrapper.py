"""What stands around the denoiser: text changed on its way in, each row of the batch by its own gains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from . import host

NEGATIVE = "negative"  # part of the role of every conditioning that a picture is guided away from


class TextWrapper(ABC):
    """Base of our two wrappers. It holds no state of a sampling and may be shared by any number of clones.

    A *run* is what :meth:`begin` makes of one sampling. *Gains* are [rows, k] and mean something to the subclass alone,
    but that a row of zeros is text which stays as it is.
    """

    key = host.KEY

    @abstractmethod
    def begin(self, guider: Any) -> Any:
        """What is to be known for one sampling, before the denoiser is loaded."""

    @abstractmethod
    def gains(self, index: int, ident: Any, rows: Tensor, run: Any) -> Tensor:
        """Gains [n, k] of one conditioning: number of its list, uuid, its rows [B, T, d] in this call, and the run."""

    @abstractmethod
    def guess(self, rows: Tensor, run: Any) -> Tensor:
        """Gains [n, k] of texts that another pack made, by their vectors."""

    @abstractmethod
    def mapped(self, rows: Tensor, gains: Tensor, run: Any) -> Tensor:
        """Texts [R, T, d] changed."""

    @abstractmethod
    def pooled(self, y: Tensor, gains: Tensor, run: Any) -> Tensor:
        """The label [R, p] changed: the pooled vector stands first in it."""

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Once per sampling."""
        guider = host.guider_of(executor)
        with host.running(guider, self.begin(guider), self.key):
            return executor(*args, **kwargs)

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One call of the denoiser: ``context`` [chunks B, T, d] and ``y`` [chunks B, p] among its arguments."""
        call = host.arguments_of(executor, args, kwargs)
        given = call.arguments
        context, y = given.get("context"), given.get("y")
        options = given.get("transformer_options") or {}
        if context is not None:
            which, uuids, run = host.chunks_of(options, self.key)
            gains = self._of_batch(context, which, uuids, run)
            if gains.any() and y is not None:
                given["y"] = self.pooled(y, gains, run)
            if host.feeds_regions(executor, options):  # also where no prompt itself is touched: a region's text may be
                given["transformer_options"] = host.with_last_patch(options, LastPatch(self, run, context, gains))
            elif gains.any():
                given["context"] = self.mapped(context, gains, run)
        return executor(*call.args, **call.kwargs)

    def _of_batch(self, context: Tensor, which: Any, uuids: Any, run: Any) -> Tensor:
        chunks = len(which) or 1
        size = len(context) // chunks
        parts = []
        for i in range(chunks):
            index, ident = (which[i], uuids[i]) if which else (0, None)
            own = self.gains(index, ident, context[i * size : (i + 1) * size], run)
            parts.append(own[torch.arange(size) % len(own)])  # as the host repeats a conditioning over a batch
        return torch.cat(parts)


class LastPatch:
    """The map as the last patch on the text inside cross-attention, for one call of the denoiser.

    Packs that couple regions put their own texts there, in an order of their own. A row that equals one of the
    denoiser's input has its gain; any other is judged by its vectors.
    """

    def __init__(self, wrapper: TextWrapper, run: Any, context: Tensor, gains: Tensor) -> None:
        self._wrapper, self._run, self._context, self._gains = wrapper, run, context, gains
        self._last: tuple[Tensor, Tensor] | None = None  # the other packs' text is mostly the same in every layer

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        """``n`` [R, hw, c], ``context`` and ``value`` [R, T, d] -> the same with the text mapped."""
        mapped = self._wrapper.mapped(context, self._of(context), self._run)
        return n, mapped, mapped if value is context else self._wrapper.mapped(value, self._of(value), self._run)

    def _of(self, rows: Tensor) -> Tensor:
        if rows is self._context:
            return self._gains
        if self._last is None or self._last[0].shape != rows.shape or not torch.equal(self._last[0], rows):
            self._last = (rows, torch.cat([self._of_row(row) for row in rows]))
        return self._last[1]

    def _of_row(self, row: Tensor) -> Tensor:
        for own, gains in zip(self._context, self._gains, strict=True):
            if _alike(own, row):
                return gains[None]
        return self._wrapper.guess(row[None], self._run)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two texts [T, d] are the same but for how often each is repeated to reach a common length."""
    longest = math.lcm(len(one), len(other))
    return torch.equal(one.repeat(longest // len(one), 1), other.repeat(longest // len(other), 1))

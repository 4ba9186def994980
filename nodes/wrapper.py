"""What stands around the denoiser: text changed on its way in, each row of the batch by its own gains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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

    def at_step(self, options: Mapping[str, Any], run: Any) -> None:  # noqa: B027 - nothing to do for most
        """Before each call of the denoiser."""

    def on_layers(self, model: Any, batch: Sequence[tuple[int, Any, Tensor]], run: Any) -> AbstractContextManager[None]:
        """Around one call of the denoiser ``model``; ``batch``: list, uuid and rows [B, T, d] of every chunk."""
        return nullcontext()

    def finish(self, run: Any) -> None:  # noqa: B027 - nothing to do for most
        """After the sampling, also if it failed."""

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Once per sampling."""
        guider = host.guider_of(executor)
        run = self.begin(guider)
        try:
            with host.running(guider, run, self.key):
                return executor(*args, **kwargs)
        finally:
            self.finish(run)

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One call of the denoiser: ``context`` [chunks B, T, d] and ``y`` [chunks B, p] among its arguments."""
        call = host.arguments_of(executor, args, kwargs)
        given = call.arguments
        context, y = given.get("context"), given.get("y")
        options = given.get("transformer_options") or {}
        around: AbstractContextManager[None] = nullcontext()
        if context is not None:
            which, uuids, run = host.chunks_of(options, self.key)
            batch = _chunks(context, which, uuids)
            self.at_step(options, run)
            gains = torch.cat([self._of_chunk(*chunk, run) for chunk in batch])
            around = self.on_layers(host.denoiser_of(executor), batch, run)
            if gains.any() and y is not None:
                given["y"] = self.pooled(y, gains, run)
            if host.feeds_regions(executor, options):  # also where no prompt itself is touched: a region's text may be
                given["transformer_options"] = host.with_last_patch(options, LastPatch(self, run, context, gains))
            elif gains.any():
                given["context"] = self.mapped(context, gains, run)
        with around:
            return executor(*call.args, **call.kwargs)

    def _of_chunk(self, index: int, ident: Any, rows: Tensor, run: Any) -> Tensor:
        return repeated(self.gains(index, ident, rows, run), len(rows))


def repeated(gains: Tensor, size: int) -> Tensor:
    """Gains [n, k] of a conditioning's rows for ``size`` pictures, as the host repeats a conditioning over a batch."""
    return gains[torch.arange(size) % len(gains)]


class Names:
    """Which of a sampling's conditionings a chunk of a call is, by uuid: ``known`` has each one's role and rows.

    For prompts with areas the host copies an entry into the other list, uuid included, and puts that list's own text
    into the copy. So a uuid that turns up in the wrong list is looked up by its text.
    """

    def __init__(self, known: Mapping[Any, tuple[str, Tensor]]) -> None:
        self._known = known
        self._found: dict[tuple[int, Any], Any] = {}

    def __call__(self, index: int, ident: Any, rows: Tensor) -> Any:
        """Of the chunk ``rows`` [B, T, d] from list ``index``; ``ident`` itself if nothing else is known."""
        if ident not in self._known or (NEGATIVE in self._known[ident][0]) == (index == 1):
            return ident
        if (index, ident) not in self._found:
            texts = ((other, own) for other, (_, own) in self._known.items())
            same = (other for other, own in texts if _alike(own[0].to(rows), rows[0]))
            self._found[index, ident] = next(same, ident)
        return self._found[index, ident]


def _chunks(context: Tensor, which: Sequence[int], uuids: Sequence[Any]) -> list[tuple[int, Any, Tensor]]:
    parts = context.chunk(len(which) or 1)
    return list(zip(which or (0,), uuids if which else (None,), parts, strict=True))


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
    return one.shape[1:] == other.shape[1:] and torch.equal(
        one.repeat(longest // len(one), 1), other.repeat(longest // len(other), 1)
    )

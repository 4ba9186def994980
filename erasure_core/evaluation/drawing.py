"""Drawing pictures that are not there yet: in fixed batches, each kept as soon as it exists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput, Interrupted
from ..models import Model
from .cache import PictureCache, Sampler, Shot, to_bytes

if TYPE_CHECKING:
    from ..guidance import GuidanceTerm

log = logging.getLogger(__name__)
ShouldStop = Callable[[], bool]
CHUNK = 77


class Drawer:
    """Draws shots with one model; everything drawn is in the cache when :meth:`batches` hands it out."""

    def __init__(
        self, model: Model, cache: PictureCache, sampler: Sampler, batch: int, should_stop: ShouldStop | None = None
    ) -> None:
        if batch < 1:
            raise BadInput(f"A batch holds at least one picture, not {batch}.")
        self.model, self.cache, self.sampler, self.batch = model, cache, sampler, batch
        self._should_stop = should_stop
        self._lengths: dict[str, int] = {}

    def batches(
        self,
        shots: Sequence[Shot],
        patched: Callable[[], AbstractContextManager[object]] | None = None,
        guidance: Sequence[GuidanceTerm] = (),
    ) -> Iterator[list[Shot]]:
        """Hand out all shots, batch by batch, each batch drawn as far as it was missing.

        The batches are cut from the sorted list of all shots before looking at what is there, so that an interrupted
        run goes on with the same batches and draws the same pixels. ``patched`` is entered before the first picture
        is drawn, and not at all when nothing is missing. ``guidance`` acts on all of them.
        """
        ordered = sorted(set(shots), key=lambda shot: shot.order)
        with ExitStack() as stack:
            entered = patched is None
            for start in range(0, len(ordered), self.batch):
                part = ordered[start : start + self.batch]
                missing = [shot for shot in part if self.cache.load(shot) is None]
                if missing and not entered:
                    assert patched is not None
                    stack.enter_context(patched())
                    entered = True
                self._draw_all(missing, guidance)
                yield part
                self._stop_if_asked()

    def _draw_all(self, shots: Sequence[Shot], guidance: Sequence[GuidanceTerm]) -> None:
        """Prompts of one length at a time: text of two chunks would stretch the others' conditioning."""
        if not shots:
            return
        by_length: dict[int, list[Shot]] = {}
        if self.model.encode([shot.prompt for shot in shots]).hidden.shape[1] == CHUNK:
            by_length[CHUNK] = list(shots)
        else:
            for shot in shots:
                by_length.setdefault(self._length(shot.prompt), []).append(shot)
        for length in sorted(by_length):
            self._draw(by_length[length], guidance)

    def _length(self, prompt: str) -> int:
        if prompt not in self._lengths:
            self._lengths[prompt] = self.model.encode([prompt]).hidden.shape[1]
        return self._lengths[prompt]

    def _draw(self, shots: Sequence[Shot], guidance: Sequence[GuidanceTerm]) -> None:
        """Draw and keep; with too little memory in halves."""
        try:
            pictures = self._sample(shots, guidance)
        except torch.cuda.OutOfMemoryError:
            if len(shots) == 1:
                raise
            log.warning("Not enough memory for %d pictures at once; going on in halves.", len(shots))
            half = len(shots) // 2
            self._draw(shots[:half], guidance)
            self._draw(shots[half:], guidance)
            return
        for shot, picture in zip(shots, pictures, strict=True):
            self.cache.store(shot, picture)

    def _sample(self, shots: Sequence[Shot], guidance: Sequence[GuidanceTerm]) -> torch.Tensor:
        encoded = self.model.encode([shot.prompt for shot in shots])
        negative = self.model.encode([self.sampler.negative]).take([0] * len(shots))
        latents = self.model.sample(
            encoded,
            negative,
            seed=[shot.seed for shot in shots],
            steps=self.sampler.steps,
            cfg=self.sampler.cfg,
            size=self.sampler.size,
            callback=lambda step, steps: self._stop_if_asked(),
            guidance=guidance,
        )
        # A membrane may drive the model to NaN; such a picture is black, and judged as what it is.
        return to_bytes(torch.nan_to_num(self.model.decode(latents)))

    def _stop_if_asked(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise Interrupted(
                "Stopped as asked. Everything drawn so far is kept; run the same again and it goes on from there."
            )

"""One evaluation of the denoiser for all the texts that a step needs, and the guided prediction made of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import WrongFamily
from ..guidance import DiscreteClock, GuidanceTerm, Moment, Needs, Predictions, Run, Units
from ..models import Encoded
from ..reading import ends_of, words_of

log = logging.getLogger(__name__)
_KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_Rows = Callable[[], AbstractContextManager[None]]
_STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")


class Denoiser(Protocol):
    """What the branches need of a model."""

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Texts as the denoiser reads them."""

    @property
    def sigmas(self) -> Tensor:
        """Noise level of every training timestep, ascending."""


class Branches:
    """Prompts, the negative prompt and the texts of guidance terms, as rows of one batch; one object per sampling.

    ``prompts(progress)`` are the prompts' texts at a part of the run, always as many; ``negative()`` as many, asked for
    when first needed. ``predict`` evaluates a batch, ``rows`` says whose rows they are while it does. Rows of guidance
    come with the negative's, so membranes that act on prompts alone leave them as they are: what is to be pushed away
    has to be known.
    """

    def __init__(
        self,
        model: Denoiser,
        scheduler: Any,
        prompts: Callable[[float], Encoded],
        negative: Callable[[], Encoded],
        cfg: float,
        guidance: Sequence[GuidanceTerm],
        predict: Callable[[Tensor, Tensor, Encoded], Tensor],
        rows: Callable[[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]], int], _Rows],
    ) -> None:
        self._model, self._prompts, self._make_negative = model, prompts, negative
        self._now = prompts(0.0)
        self._predict, self._rows = predict, rows
        self._cfg = cfg if cfg > 1 else 1.0
        self._kind = _kind(scheduler) if guidance else "eps"
        self._stochastic = type(scheduler).__name__ in _STOCHASTIC
        self._clock = DiscreteClock(model.sigmas)
        schedule = [self._clock.sigma_at(float(t)) for t in scheduler.timesteps[:: getattr(scheduler, "order", 1)]]
        self._run = Run(guidance, self._cfg, schedule)
        self._known: dict[str | None, Encoded] = {}
        self._stacks: dict[Needs, tuple[Encoded, int, _Rows]] = {}
        for term in guidance:
            if reason := term.inactive(self._cfg):
                log.warning("%s", reason)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided prediction [B, c, h, w] for x as the denoiser sees it, at a training timestep."""
        sigma = self._clock.sigma_at(float(t))
        at = Moment(sigma, self._clock.progress(sigma))
        needs = self._run.needs(at, x.shape)
        now = self._prompts(at.progress)
        if now is not self._now:
            self._now, self._stacks = now, {}
        if needs not in self._stacks:
            self._stacks[needs] = self._stack(needs)
        both, count, evaluating = self._stacks[needs]
        with evaluating():
            parts = list(self._predict(torch.cat([x] * count) if count > 1 else x, t, both).chunk(count))
        uncond = parts.pop(0) if needs.uncond else None
        texts = dict(zip(needs.texts, parts, strict=False))
        units = Units.at(self._kind, sigma)
        return self._run.combine(
            Predictions(parts[-1], uncond, x, units, at, self._cfg, texts, self._stochastic, needs.stand_in)
        )

    def _stack(self, needs: Needs) -> tuple[Encoded, int, _Rows]:
        """A batch: unconditional or what stands for it, further texts, prompts; how many of these; whose rows."""
        parts = [self._text(needs.stand_in)] if needs.uncond else []
        parts += [self._text(text) for text in needs.texts]
        ids, ends = ([row for part in (*parts, self._now) for row in read(part)] for read in (words_of, ends_of))
        stacked = self._now
        for part in reversed(parts):
            stacked = stack(part, stacked)
        return stacked, len(parts) + 1, self._rows(ids, ends, len(ids) - len(self._now))

    def _text(self, text: str | None) -> Encoded:
        """A text, or for None the negative prompt, once for each prompt."""
        if text not in self._known:
            if text is None:
                self._known[text] = self._make_negative()
            else:
                self._known[text] = self._model.encode([text]).take([0] * len(self._now))
        return self._known[text]


def _kind(scheduler: Any) -> str:
    wanted = scheduler.config.get("prediction_type", "epsilon")
    if wanted not in _KINDS:
        raise WrongFamily(
            f"Guidance does not know the prediction type {wanted!r} of {type(scheduler).__name__}; it knows "
            f"{', '.join(_KINDS)}. Choose another sampler."
        )
    return _KINDS[wanted]


def repeat_to(rows: Tensor, length: int) -> Tensor:
    """Rows [B, T, d] repeated along the text to a multiple of T."""
    return rows if rows.shape[1] == length else rows.repeat(1, length // rows.shape[1], 1)


def stack(first: Encoded, second: Encoded) -> Encoded:
    """Two batches as one; the shorter text is repeated to the common length, as the hosts do."""
    length = math.lcm(first.hidden.shape[1], second.hidden.shape[1])
    both = [repeat_to(part.hidden, length) for part in (first, second)]
    pooled = None
    if first.pooled is not None and second.pooled is not None:
        pooled = torch.cat([first.pooled, second.pooled])
    extras = {
        name: torch.cat([first.extras[name], second.extras[name]])
        for name in first.extras.keys() & second.extras.keys()
    }
    return Encoded(torch.cat(both), {}, torch.empty(0), pooled, extras)

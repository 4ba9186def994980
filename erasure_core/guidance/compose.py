"""Several terms at once: what each evaluation has to predict, and their sum on top of classifier-free guidance.

Every term reads the same predictions, never another term's result, so their order is nothing; texts that several need
are evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .limits import allowed
from .predictions import Predictions
from .progress import Moment
from .state import State
from .term import GuidanceTerm, Needs, Trace
from .units import wide


class Run:
    """Terms in one run: call :meth:`needs`, evaluate, then :meth:`combine` or :meth:`inject`; once per evaluation.

    ``cfg``: guidance scale, 1 is none. ``sigmas``: the run's schedule if known, see :class:`.state.State`.
    ``limit``: kappa for the sum of all terms (:func:`.limits.limited`), infinite is off. ``traces``: what each term
    did in each evaluation is appended there.
    """

    def __init__(
        self,
        terms: Sequence[GuidanceTerm],
        cfg: float,
        sigmas: Sequence[float] | None = None,
        limit: float = math.inf,
        traces: list[Trace] | None = None,
    ) -> None:
        self.terms, self.cfg, self.limit, self.traces = tuple(terms), cfg, limit, traces
        self._states = [State(sigmas) for _ in self.terms]

    def needs(self, at: Moment, shape: Sequence[int]) -> Needs:
        """What to predict at this moment for x of ``shape``, beside the prompt (which is always needed)."""
        for state in self._states:
            state.enter(at.sigma, shape)
        pairs = list(zip(self.terms, self._states, strict=True))
        wanted = [term.needs(state, at, self.cfg) for term, state in pairs]
        acting = [(term, state) for term, state in pairs if term.acts(state, at, self.cfg)]
        if self.cfg != 1 and len(acting) == 1 and self.limit == math.inf:
            text = acting[0][0].replaces(acting[0][1], at, self.cfg)
            if text is not None:
                return Needs(uncond=True, stand_in=text)
        texts = dict.fromkeys(text for need in wanted for text in need.texts)
        limits = self.limit < math.inf and bool(acting)
        return Needs(self.cfg != 1 or limits or any(need.uncond for need in wanted), tuple(texts))

    def changes(self, predictions: Predictions) -> list[tuple[GuidanceTerm, Tensor]]:
        """What each acting term adds to the guided prediction, score units [B, ...], the limit on the sum included."""
        if predictions.stand_in is not None:
            return []
        found = []
        for term, state in zip(self.terms, self._states, strict=True):
            state.enter(predictions.at.sigma, predictions.x.shape)
            change = term.change(state, predictions, self.traces)
            if change is not None:
                found.append((term, change))
        if self.limit < math.inf and found:
            total = sum((change for _, change in found[1:]), found[0][1])
            share = allowed(total, predictions, self.limit)
            found = [(term, change * share) for term, change in found]
        return found

    def combine(self, predictions: Predictions) -> Tensor:
        """The guided prediction [B, ...], raw as the predictions and of their dtype."""
        return add(predictions, [change for _, change in self.changes(predictions)])

    def inject(self, predictions: Predictions) -> tuple[Tensor, Tensor | None]:
        """Prompt and unconditional prediction changed so that any later u + w (c - u) is the guided prediction.

        For hosts that do classifier-free guidance by themselves, and other extensions that act there: a term that is
        scaled by w goes into the prompt's, one that is not into both, one that replaces the unconditional into that.
        """
        cond, uncond = wide(predictions.cond), None if predictions.uncond is None else wide(predictions.uncond)
        changes = self.changes(predictions)
        if not changes:
            return predictions.cond, predictions.uncond
        for term, change in changes:
            raw = predictions.raw(change)
            if self.cfg == 1:
                cond = cond + raw
            elif term.injection == "replace" and term.scale is None:
                uncond = None if uncond is None else uncond + raw / (1 - self.cfg)
            elif term.injection == "cfg" and term.scale is None:
                cond = cond + raw / self.cfg
            else:
                cond, uncond = cond + raw, None if uncond is None else uncond + raw
        dtype = predictions.cond.dtype
        return cond.to(dtype), None if uncond is None else uncond.to(dtype)


def add(predictions: Predictions, changes: Sequence[Tensor]) -> Tensor:
    """Classifier-free guidance plus changes in score units; without any it is that guidance to the last bit."""
    if not changes:
        return predictions.guided
    total = sum(changes[1:], changes[0])
    if predictions.cfg == 1:
        guided = wide(predictions.cond)
    else:
        empty = wide(predictions.empty)
        guided = empty + predictions.cfg * (wide(predictions.cond) - empty)
    return (guided + predictions.raw(total)).to(predictions.cond.dtype)

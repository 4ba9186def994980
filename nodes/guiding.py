"""Negative guidance in the host: further texts in the batch of each step, their terms in what it then guides with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..erasure_core.digest import tensor_digest
from ..erasure_core.guidance import GuidanceTerm, HostClock, Moment, Needs, Predictions, Run, Trace, Units
from . import host
from .curves import EVENT, Curves, Step, step
from .wrapper import NEGATIVE

_ROLE = f"{NEGATIVE} guidance: "  # so that membranes treat these texts as they do the negative prompt
_KEPT = 8  # runs a node remembers, for plots


@dataclass(frozen=True)
class Entry:
    """The term of one node. ``texts``: each text it may ask for, and the empty one, encoded.

    ``limit``: kappa for the sum of the terms of all nodes. ``history``: (digest of the latent, what happened).
    """

    term: GuidanceTerm
    label: str
    texts: Mapping[str, host.Entries]
    node_id: str | None
    limit: float = math.inf
    history: deque[tuple[str, Curves]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def curves(self, latent: Tensor) -> Curves | None:
        """Of the run that gave this latent [B, ...]; of the last one if it was changed since."""
        wanted = tensor_digest(latent.float())
        return next((found for own, found in reversed(self.history) if own == wanted), None) or (
            self.history[-1][1] if self.history else None
        )


@dataclass
class Running:
    """One sampling. ``levels``: from progress to noise. ``steps`` [evaluations][entries] is filled as it goes on."""

    guider: Any
    entries: Sequence[Entry]
    clock: HostClock
    flow: bool
    stochastic: bool
    run: Run | None = None
    traces: list[Trace] = field(default_factory=list)
    steps: list[list[Step]] = field(default_factory=list)
    evaluations: tuple[int, int] = (0, 0)  # without us, and further ones

    def begin(self, sigma: float, schedule: Sequence[float] | None, cfg: float, shape: Sequence[int]) -> Needs:
        """What this evaluation has to predict."""
        if self.run is None:
            # the name of a term is only shown: here it tells which entry a trace is of
            terms = [replace(entry.term, name=str(i)) for i, entry in enumerate(self.entries)]
            limit = min(entry.limit for entry in self.entries)
            self.run = Run(terms, cfg, schedule, limit, self.traces)
        self.run.cfg = cfg  # some nodes leave guidance out at some steps
        return self.run.needs(self.at(sigma), shape)

    def at(self, sigma: float) -> Moment:
        """Where the run is."""
        return Moment(sigma, self.clock.progress(sigma))

    def end(self, needs: Needs, at: Moment) -> None:
        """Note what was done in one evaluation."""
        done = {int(trace.term): trace for trace in self.traces}
        self.traces.clear()
        stands = [_stands_in(entry.term, needs.stand_in, at) for entry in self.entries]
        self.steps.append([step(at, done.get(i), stands[i]) for i in range(len(self.entries))])

    def count(self, before: int, further: int) -> None:
        """Texts that were evaluated."""
        self.evaluations = (self.evaluations[0] + before, self.evaluations[1] + further)


class Guiding:
    """The terms of all Negative Guidance nodes before a sampler. It may be shared by any number of clones.

    What a run needs is held by that run alone; the entries only remember what past runs did, for plots.
    """

    key = host.GUIDANCE

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    @cached_property
    def texts(self) -> dict[str, host.Entries]:
        """Role -> conditioning of everything that may be evaluated."""
        return {_ROLE + text: found for entry in self.entries for text, found in entry.texts.items()}

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Once per sampling: bring the texts in, and tell what happened."""
        guider = host.guider_of(executor)
        sampler = host.arguments_of(executor, args, kwargs).arguments.get("sampler")
        sigma_of, flow = host.levels_of(guider)
        running = Running(guider, self.entries, HostClock(sigma_of), flow, host.draws_from_posterior(sampler))
        latent = None
        try:
            with host.more_texts(guider, self.texts), host.running(guider, running, self.key):
                latent = executor(*args, **kwargs)
                return latent
        finally:
            self._tell(running, latent)

    def __call__(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x: Tensor,
        timestep: Tensor,
        options: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One evaluation: prompt and negative as x0 [B, ...] each, from what all texts predict in one batch."""

        def evaluate(lists: Sequence[Any]) -> Any:
            return executor(model, list(lists), x, timestep, options, *args, **kwargs)

        running: Running | None = host.run_in(options, self.key)
        if running is None or len(conds) != 2 or conds[0] is None:  # asked by another extension, or by its own guider
            return evaluate(conds)
        positive, negative = conds
        sigma, schedule = host.step_of(options, timestep)
        cfg = 1.0 if negative is None else host.scale_of(running.guider)
        needs, at = running.begin(sigma, schedule, cfg, x.shape), running.at(sigma)
        before = 1 if negative is None else 2
        if needs.stand_in is not None:
            found = evaluate([positive, self._text(running, needs.stand_in)])
            running.count(before, 0)
            running.end(needs, at)
            return found
        null = [self._null(running)] if needs.uncond and negative is None else []
        found = evaluate([positive, negative, *null, *(self._text(running, text) for text in needs.texts)])
        running.count(before, len(found) - 2)
        uncond = found[2] if null else found[1] if negative is not None else None
        assert running.run is not None
        cond, changed = running.run.inject(
            Predictions(
                found[0],
                uncond,
                x,
                Units.variance_exploding(sigma, running.flow),
                at,
                cfg,
                dict(zip(needs.texts, found[2 + len(null) :], strict=True)),
                running.stochastic,
            )
        )
        running.end(needs, at)
        return [cond, found[1] if negative is None or changed is None else changed]

    def _text(self, running: Running, text: str) -> Any:
        return host.text_of(running.guider, _ROLE + text)

    def _null(self, running: Running) -> Any:
        """The negative prompt, which the host leaves out at scale 1; the empty one where there is none."""
        return host.text_of(running.guider, NEGATIVE) or self._text(running, "")

    def _tell(self, running: Running, latent: Tensor | None) -> None:
        """Keep the curves of each node, and send them to it."""
        cfg = 1.0 if running.run is None else running.run.cfg
        digest = tensor_digest(latent.float()) if isinstance(latent, Tensor) else ""
        for i, entry in enumerate(self.entries):
            curves = Curves.of(entry.label, [steps[i] for steps in running.steps], cfg, running.evaluations)
            told = replace(curves, warning=_warning(entry, running, cfg))
            if running.steps:
                entry.history.append((digest, told))
            if entry.node_id is not None:
                host.send(EVENT, {"node_id": str(entry.node_id), **told.to_dict()})


def _stands_in(term: GuidanceTerm, text: str | None, at: Moment) -> bool:
    """Whether it is this term whose text is evaluated instead of the negative now."""
    if text is None or term.injection != "replace":
        return False
    return any(edit.text == text and edit.window.gain(at.progress) > 0 for edit in term.edits)


def _warning(entry: Entry, running: Running, cfg: float) -> str:
    if running.steps:
        return entry.term.inactive(cfg)
    return (
        "Nothing was guided: this sampling does not evaluate a prompt and a negative together. Use KSampler, CFGGuider "
        "or BasicGuider, or Attention Negative."
    )

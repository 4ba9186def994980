"""Putting erasures into a live pipeline and taking them out again, bitwise, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..acting import Action, Stacks
from ..erasure import POOLED_SPACE, WeightDelta, check_deltas
from ..errors import BadInput
from ..gates import PromptRow
from .weights import PipelineWeights


class PipelinePatch:
    """Maps and deltas in force until ``undo``."""

    def __init__(self, owner: Patching, actions: Sequence[Action], deltas: Sequence[WeightDelta], rows: str) -> None:
        self.actions, self.deltas, self.rows = actions, deltas, rows
        self._owner: Patching | None = owner

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.remove(self)


@dataclass
class _Run:
    """One sampling: token ids of every row of the denoiser's batch, which rows are the negative, and their gains."""

    ids: Sequence[tuple[int, ...]]
    negative: int
    gains: Tensor | None = None


class Patching:
    """All patches of one pipeline; weights are always rebuilt from the originals, so the order of undoing is free."""

    def __init__(self, pipe: Any, weights: PipelineWeights) -> None:
        self._unet = pipe.unet
        self._weights = weights
        self._active: list[PipelinePatch] = []
        self._stacks = self._everywhere = Stacks(())
        self._hook: Any = None
        self._run: _Run | None = None

    def add(self, actions: Sequence[Action], deltas: Sequence[WeightDelta], rows: str) -> PipelinePatch:
        """Check everything first, then change the model."""
        if rows not in ("cond", "all"):
            raise BadInput(f"rows must be 'cond' or 'all', not {rows!r}.")
        check_deltas(deltas, self._weights.shapes())
        patch = PipelinePatch(self, list(actions), list(deltas), rows)
        self._active.append(patch)
        try:
            self._refresh({delta.name for delta in patch.deltas})
        except BaseException:
            patch.undo()
            raise
        return patch

    def remove(self, patch: PipelinePatch) -> None:
        """Take one patch out."""
        self._active.remove(patch)
        self._refresh({delta.name for delta in patch.deltas})

    @contextmanager
    def sampling(self, ids: Sequence[tuple[int, ...]], negative: int) -> Iterator[None]:
        """While the sampler runs: token ids of each row of the denoiser's batch, the negative's coming first."""
        self._run = _Run(ids, negative)
        try:
            yield
        finally:
            self._run = None

    def batch(self, hidden: Tensor) -> tuple[list[PromptRow], Tensor]:
        """The texts ``hidden`` [R, T, d] of one call with their words, and which [R] are the negative half.

        Where no sampling says so, words are not known and no row is negative.
        """
        run = self._run if self._run is not None and len(self._run.ids) == len(hidden) else None
        prompts = [PromptRow(row, None if run is None else run.ids[i]) for i, row in enumerate(hidden)]
        return prompts, torch.arange(len(hidden)) < (0 if run is None else run.negative)

    def mapped_negative(self, texts: Tensor) -> Tensor:
        """Negative texts [b, L, d] that do not come through the denoiser's input, under the maps of ``rows="all"``."""
        if not self._everywhere.actions:
            return texts
        found = [self._everywhere.activations(PromptRow(row)) for row in texts]
        return self._context(texts, torch.tensor([[a.gain for a in row] for row in found]), self._everywhere)

    @torch.no_grad()
    def _refresh(self, names: set[str]) -> None:
        for name in names:
            parameter = self._weights.parameter(name)
            changes = [d for patch in self._active for d in patch.deltas if d.name == name]
            if not changes:
                original = self._weights.originals.pop(name, None)
                if original is not None:
                    parameter.data = original  # the very same storage as before: bitwise undo
                continue
            total = self._weights[name]  # float32 copy of the original, refuses quantised and broken weights
            for delta in changes:
                total += delta.dense()
            self._weights.originals.setdefault(name, parameter.data)
            parameter.data = total.to(parameter.device, parameter.dtype)
        self._stacks = Stacks([action for patch in self._active for action in patch.actions])
        self._everywhere = Stacks([a for patch in self._active if patch.rows == "all" for a in patch.actions])
        self._set_hook(bool(self._stacks.actions))

    def _set_hook(self, wanted: bool) -> None:
        if wanted and self._hook is None:
            self._hook = self._unet.register_forward_pre_hook(self._map_inputs, with_kwargs=True)
        elif not wanted and self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _map_inputs(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        gains = self._gains(hidden)
        mapped = self._context(hidden, gains, self._stacks)
        if "encoder_hidden_states" in kwargs:
            kwargs = {**kwargs, "encoder_hidden_states": mapped}
        else:
            args = (*args[:2], mapped, *args[3:])
        added = kwargs.get("added_cond_kwargs")
        if added and "text_embeds" in added:
            pooled = self._stacks.apply(POOLED_SPACE, added["text_embeds"], gains)
            kwargs = {**kwargs, "added_cond_kwargs": {**added, "text_embeds": pooled}}
        return args, kwargs

    def _context(self, hidden: Tensor, gains: Tensor, stacks: Stacks) -> Tensor:
        for space in stacks.spaces:
            if space != POOLED_SPACE:
                hidden = stacks.apply(space, hidden, gains)
        return hidden

    def _gains(self, hidden: Tensor) -> Tensor:
        """[rows, membranes]; found once for a sampling, for a pipeline that the caller runs by itself at each call."""
        run = self._run if self._run is not None and len(self._run.ids) == len(hidden) else None
        if run is not None and run.gains is not None:
            return run.gains
        gains = torch.zeros(len(hidden), len(self._stacks.actions))
        which = [patch.rows for patch in self._active for _ in patch.actions]
        for row in range(len(hidden)):
            found = self._stacks.activations(PromptRow(hidden[row], None if run is None else run.ids[row]))
            for i, activation in enumerate(found):
                if which[i] == "all" or run is None or row >= run.negative:
                    gains[row, i] = activation.gain
        if run is not None:
            run.gains = gains
        return gains

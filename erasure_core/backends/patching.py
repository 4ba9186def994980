"""Putting erasures into a live pipeline and taking them out again, bitwise, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..acting import Action, Stacks, on_negative
from ..bottleneck import check_bottlenecks
from ..chain import Chain, Hooks, Place
from ..erasure import POOLED_SPACE, WeightDelta, check_deltas
from ..errors import BadInput
from ..reading import PromptRow
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
    """Rows of one kind of batch: ids and ends of text of each, how many come before the prompts, and their gains."""

    ids: Sequence[tuple[int, ...]]
    ends: Sequence[tuple[int, ...]]
    negative: int
    gains: tuple[Tensor, Tensor] | None = None


class Patching:
    """All patches of one pipeline; weights are always rebuilt from the originals, so the order of undoing is free."""

    def __init__(self, pipe: Any, weights: PipelineWeights) -> None:
        self._unet = pipe.unet
        self._steps = pipe.scheduler.config.num_train_timesteps
        self._weights = weights
        self._active: list[PipelinePatch] = []
        self._stacks = self._everywhere = Stacks(())
        self._hooks: Hooks | None = None
        self._handles: list[Any] = []
        self._run: _Run | None = None

    def add(self, actions: Sequence[Action], deltas: Sequence[WeightDelta], rows: str) -> PipelinePatch:
        """Check everything first, then change the model."""
        if rows not in ("cond", "all"):
            raise BadInput(f"rows must be 'cond' or 'all', not {rows!r}.")
        shapes = self._weights.shapes()
        check_deltas([*deltas, *(delta for action in actions for delta in action.deltas.values())], shapes)
        check_bottlenecks([eraser for action in actions for eraser in action.bottlenecks.values()], shapes)
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

    def rows(
        self, ids: Sequence[tuple[int, ...]], ends: Sequence[tuple[int, ...]], negative: int
    ) -> Callable[[], AbstractContextManager[None]]:
        """Token ids and ends of text of each row of a batch, of which the first ``negative`` are not prompts.

        The result is entered around every evaluation of such a batch; gains are found once for all of them.
        """
        run = _Run(ids, ends, negative)

        @contextmanager
        def evaluating() -> Iterator[None]:
            self._run = run
            try:
                yield
            finally:
                self._run = None

        return evaluating

    def batch(self, hidden: Tensor) -> tuple[list[PromptRow], Tensor]:
        """The texts ``hidden`` [R, T, d] of one call with their words, and which [R] are the negative half.

        Where no sampling says so, words are not known and no row is negative.
        """
        run = self._run if self._run is not None and len(self._run.ids) == len(hidden) else None
        prompts = [
            PromptRow(row) if run is None else PromptRow(row, run.ids[i], run.ends[i]) for i, row in enumerate(hidden)
        ]
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
        self._everywhere = Stacks([a for patch in self._active if patch.rows == "all" for a in patch.actions])
        self._set_hooks([action for patch in self._active for action in patch.actions])

    def _set_hooks(self, actions: Sequence[Action]) -> None:
        for handle in self._handles:
            handle.remove()
        if self._hooks is not None:
            self._hooks.remove()
        self._handles, self._hooks, self._stacks = [], None, Stacks(actions)
        chain = Chain(actions)
        if chain.layers:
            places = {layer: Place(self._unet.get_submodule(layer.removeprefix("unet."))) for layer in chain.layers}
            self._hooks = Hooks(chain, places)
        if actions:
            self._handles = [
                self._unet.register_forward_pre_hook(self._before, with_kwargs=True),
                self._unet.register_forward_hook(self._after, always_call=True),
            ]

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        gains, on_layers = self._now(self._gains(hidden), kwargs["timestep"] if "timestep" in kwargs else args[1])
        if self._hooks is not None:
            self._hooks.begin(on_layers)
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

    def _after(self, module: Any, args: tuple[Any, ...], out: Any) -> None:
        if self._hooks is not None:
            self._hooks.end()

    def _context(self, hidden: Tensor, gains: Tensor, stacks: Stacks) -> Tensor:
        for space in stacks.spaces:
            if space != POOLED_SPACE:
                hidden = stacks.apply(space, hidden, gains)
        return hidden

    def _now(self, gains: tuple[Tensor, Tensor], timestep: Any) -> tuple[Tensor, Tensor]:
        """Gains without those of membranes that do not act at this part of the sampling."""
        actions = self._stacks.actions
        if all(action.window == (0.0, 1.0) for action in actions):
            return gains
        progress = 1 - float(torch.as_tensor(timestep).flatten()[0]) / (self._steps - 1)
        acting = torch.tensor([float(action.acts_at(progress)) for action in actions])
        return gains[0] * acting, gains[1] * acting

    def _gains(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, membranes] on the text and on layers; found once for a sampling, else at each call."""
        run = self._run if self._run is not None and len(self._run.ids) == len(hidden) else None
        if run is not None and run.gains is not None:
            return run.gains
        actions = self._stacks.actions
        own = torch.zeros(len(hidden), len(actions))
        for row in range(len(hidden)):
            known = () if run is None else (run.ids[row], run.ends[row])
            prompt = PromptRow(hidden[row], *known)
            own[row] = torch.tensor([activation.gain for activation in self._stacks.activations(prompt)])
        gains = own, own
        if run is not None:
            gains = run.gains = self._without_negative(own, run.negative)
        return gains

    def _without_negative(self, own: Tensor, negative: int) -> tuple[Tensor, Tensor]:
        """Of every row's own gains: what acts on the text, and on layers, where the first rows are the negative's."""
        every = torch.tensor([patch.rows == "all" for patch in self._active for _ in patch.actions])
        text, layers = own.clone(), own.clone()
        text[:negative] *= every
        if negative:  # the negative prompts, and as many rows again for each text of guidance
            followed = on_negative(own[negative:], self._stacks.actions)
            followed = followed.repeat(negative // len(followed), 1)
            layers[:negative] = torch.where(every, own[:negative], followed)
        return text, layers

"""Putting erasures into a live pipeline and taking them out again, bitwise, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..erasure import POOLED_SPACE, EmbeddingMap, WeightDelta
from ..errors import BadInput, NothingMatched, WrongFamily
from .weights import PipelineWeights

Maps = Mapping[str, Sequence[tuple[EmbeddingMap, float]]]


class PipelinePatch:
    """Maps and deltas in force until ``undo``."""

    def __init__(self, owner: Patching, maps: Maps, deltas: Sequence[WeightDelta], rows: str) -> None:
        self.maps, self.deltas, self.rows = maps, deltas, rows
        self._owner: Patching | None = owner

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.remove(self)


class Patching:
    """All patches of one pipeline; weights are always rebuilt from the originals, so the order of undoing is free."""

    def __init__(self, pipe: Any, weights: PipelineWeights) -> None:
        self._unet = pipe.unet
        self._weights = weights
        self._active: list[PipelinePatch] = []
        self._hook: Any = None
        self._cond: Tensor | None = None  # while sampling: 1 for rows of the prompt, 0 for rows of the negative

    def add(self, maps: Maps, deltas: Sequence[WeightDelta], rows: str) -> PipelinePatch:
        """Check everything first, then change the model."""
        if rows not in ("cond", "all"):
            raise BadInput(f"rows must be 'cond' or 'all', not {rows!r}.")
        self._check(deltas)
        maps = {space: [(m, g) for m, g in some if g != 0] for space, some in maps.items()}
        patch = PipelinePatch(self, maps, [d for d in deltas if d.scale != 0], rows)
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
    def marking(self, count: int, guided: bool) -> Iterator[None]:
        """While the sampler runs: which rows of the denoiser's batch belong to the prompt."""
        self._cond = torch.tensor([0.0] * count + [1.0] * count) if guided else None
        try:
            yield
        finally:
            self._cond = None

    def _check(self, deltas: Sequence[WeightDelta]) -> None:
        for delta in deltas:
            if delta.name not in self._weights:
                raise NothingMatched(f"The model has no weight {delta.name}; the erasure belongs to another model.")
            wanted = tuple(self._weights.parameter(delta.name).shape)
            if delta.shape != wanted:
                raise WrongFamily(
                    f"{delta.name} is {wanted} in this model but {delta.shape} in the erasure. "
                    "Use the erasure with the model family it was made for."
                )

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
        self._set_hook(any(some for patch in self._active for some in patch.maps.values()))

    def _set_hook(self, wanted: bool) -> None:
        if wanted and self._hook is None:
            self._hook = self._unet.register_forward_pre_hook(self._map_inputs, with_kwargs=True)
        elif not wanted and self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _map_inputs(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if "encoder_hidden_states" in kwargs:
            kwargs = {**kwargs, "encoder_hidden_states": self._mapped(kwargs["encoder_hidden_states"], pooled=False)}
        elif len(args) > 2:
            args = (*args[:2], self._mapped(args[2], pooled=False), *args[3:])
        added = kwargs.get("added_cond_kwargs")
        if added and "text_embeds" in added:
            kwargs = {**kwargs, "added_cond_kwargs": {**added, "text_embeds": self._mapped(added["text_embeds"], True)}}
        return args, kwargs

    def _mapped(self, rows: Tensor, pooled: bool) -> Tensor:
        """Every map's change of the same rows, added up: the same in any order, and what baked weights do."""
        mapped = None
        for patch in self._active:
            for space, some in patch.maps.items():
                if (space == POOLED_SPACE) == pooled:
                    for emap, gain in some:
                        one = emap(rows, self._gain(rows, gain, patch.rows))
                        mapped = one if mapped is None else mapped + (one - rows)
        return rows if mapped is None else mapped

    def _gain(self, rows: Tensor, gain: float, which: str) -> float | Tensor:
        if which == "all" or self._cond is None or len(self._cond) != len(rows):
            return gain
        return (self._cond * gain).to(rows).reshape(-1, *[1] * (rows.dim() - 1))

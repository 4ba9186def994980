"""Attention-space terms in a live pipeline: in force until undone, in every call of the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import WrongFamily
from ..guidance.attention import AttentionTerm, Call, attached, cross_attention, repeats_of
from .patching import Patching


class SteeringPatch:
    """Terms in force until ``undo`` or the end of the ``with`` block; nothing of them stays on the modules."""

    def __init__(self, unet: Any, patching: Patching, timesteps: int, terms: Sequence[AttentionTerm]) -> None:
        self._layers = cross_attention(unet)
        self._patching, self._last, self._terms = patching, timesteps - 1, tuple(terms)
        _check_widths(unet.config.cross_attention_dim, self._terms)
        self._call = ExitStack()
        self._known: tuple[Tensor, tuple[tuple[int, ...] | None, ...], Tensor, Tensor] | None = None
        self._hooks = [
            unet.register_forward_pre_hook(self._before, with_kwargs=True),
            unet.register_forward_hook(self._after, always_call=True),  # also when the call fails
        ]

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""
        self._call.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> SteeringPatch:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        context: Tensor = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        progress = min(max(1 - float(torch.as_tensor(timestep).flatten()[0]) / self._last, 0.0), 1.0)
        windows = torch.tensor([term.window.gain(progress) for term in self._terms])
        if not windows.any():
            return
        openness, negative = self._openness(context)
        gains = openness * windows[:, None]
        if not gains.any():
            return
        picture = torch.arange(len(context)) % max(1, int((~negative).sum()))
        terms = [replace(t, texts=tuple(self._patching.mapped_negative(text) for text in t.texts)) for t in self._terms]
        self._call.close()
        call = Call(gains, picture, repeats_of(context), context.shape[1])
        self._call.enter_context(attached(self._layers, terms, call))

    def _openness(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """[terms, R] strengths times gates, and which rows are negative; judged once for as long as the text stays."""
        prompts, negative = self._patching.batch(context)
        key = (tuple(prompt.ids for prompt in prompts), negative)
        if self._known is not None:
            text, ids, other, openness = self._known
            if ids == key[0] and torch.equal(other, negative) and text.shape == context.shape and text.equal(context):
                return openness, negative
        openness = torch.stack([term.openness(prompts, negative) for term in self._terms])
        self._known = (context.clone(), *key, openness)
        return openness, negative

    def _after(self, module: Any, args: Any, output: Any) -> None:
        self._call.close()


def _check_widths(width: int, terms: Sequence[AttentionTerm]) -> None:
    for term in terms:
        for text in term.texts:
            if text.shape[2] != width:
                raise WrongFamily(
                    f"The negative's text has vectors of width {text.shape[2]}, this model reads {width}. "
                    "Encode it with the model's own text encoder."
                )

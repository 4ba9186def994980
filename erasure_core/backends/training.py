"""A pipeline's denoiser and text encoders, open for training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..chain import Place
from ..encoding import EncodedText, TextEncoder, encode_text
from ..errors import BadInput, NothingMatched, WrongFamily
from ..models import Encoded
from ..training.frozen import frozen, normal, recomputed, transformer_blocks
from ..training.texts import Texts
from .weights import canonical

_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


def prediction_of(scheduler: Any) -> str:
    """What the network was trained to tell, ``eps`` or ``v``; raises WrongFamily for anything else."""
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise WrongFamily(
            f"This model predicts {kind!r}; training knows models that predict {' or '.join(_PREDICTIONS)}. "
            "Load a Stable Diffusion 1, 2 or XL pipeline with its own scheduler."
        )
    return _PREDICTIONS[kind]


class PipelineNetwork:
    """A pipeline's U-Net while it is open. ``predict(x, t, encoded)`` evaluates it as sampling does."""

    def __init__(self, unet: Any, predict: Callable[[Tensor, Tensor, Encoded], Tensor]) -> None:
        self._unet, self._predict = unet, predict
        self._modules = {canonical("unet", name): module for name, module in unet.named_modules()}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser."""
        dtype: torch.dtype = next(self._unet.parameters()).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        device: torch.device = next(self._unet.parameters()).device
        return device

    def place(self, layer: str) -> Place:
        """The module of a layer by canonical name; raises NothingMatched if there is none."""
        return place_in(self._modules, layer)

    def predict(self, x: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """Raw output [B, c, h, w] for x [B, c, h, w] at training timesteps t [B]; SDXL is told the size of x."""
        pooled = None if texts.pooled is None else normal(texts.pooled)
        x, t = normal(x).to(self.device, self.dtype), normal(t).to(self.device)
        return self._predict(x, t, Encoded(normal(texts.hidden), {}, torch.empty(0), pooled))


class PipelineTexts:
    """A pipeline's text encoders while they are open; ``read(encoder, ids)`` runs one with gradients."""

    def __init__(self, roots: Mapping[str, nn.Module], encoders: Sequence[TextEncoder]) -> None:
        self._modules = {
            canonical(root, name): module for root, network in roots.items() for name, module in network.named_modules()
        }
        self._encoders = encoders

    def place(self, layer: str) -> Place:
        """The module of a layer by canonical name; raises NothingMatched if there is none."""
        return place_in(self._modules, layer)

    def read(self, prompts: Collection[str]) -> Texts:
        """Rows [B, 77, d] and pooled [B, p]; raises BadInput for a prompt that is longer than one chunk."""
        parts = [encode_text(encoder, list(prompts)) for encoder in self._encoders]
        for prompt, chunks in zip(prompts, parts[0].chunks.tolist(), strict=True):
            if chunks != 1:
                raise BadInput(f"The prompt '{prompt[:40]}' is longer than 77 tokens; training takes shorter ones.")
        return Texts(torch.cat([part.hidden for part in parts], dim=-1), _pooled(parts))


def place_in(modules: Mapping[str, nn.Module], layer: str) -> Place:
    """The module that canonical names call ``layer``."""
    if layer not in modules:
        raise NothingMatched(f"This model has no layer {layer}, so it cannot be trained.")
    return Place(modules[layer])


@contextmanager
def open_unet(
    unet: Any, checkpointing: bool, predict: Callable[[Tensor, Tensor, Encoded], Tensor]
) -> Iterator[PipelineNetwork]:
    """The U-Net frozen, with gradients through it."""
    with frozen([unet]), recomputed(transformer_blocks(unet)) if checkpointing else nullcontext():
        yield PipelineNetwork(unet, predict)


@contextmanager
def open_texts(
    modules: Sequence[nn.Module],
    encoders: Sequence[TextEncoder],
    run: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]],
) -> Iterator[PipelineTexts]:
    """The text encoders frozen, with gradients through them; nothing that they say is remembered."""
    roots = dict(zip(("text_encoder", "text_encoder_2"), modules, strict=False))
    with frozen(modules):
        yield PipelineTexts(
            roots,
            [
                replace(encoder, run=_runner(run, module), fingerprint=lambda: "", limit=0, _cache=OrderedDict())
                for encoder, module in zip(encoders, modules, strict=True)
            ],
        )


def _runner(
    run: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]], module: nn.Module
) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    return lambda ids: run(module, ids)


def _pooled(parts: Sequence[EncodedText]) -> Tensor | None:
    return parts[-1].pooled if len(parts) > 1 else None

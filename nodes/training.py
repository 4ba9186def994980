"""A graph's denoiser and text encoders, open for training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.chain import Place
from ..erasure_core.errors import BadInput, NothingMatched, WrongFamily
from ..erasure_core.keys.text import Slot
from ..erasure_core.training.frozen import frozen, normal, recomputed, transformer_blocks
from ..erasure_core.training.texts import Texts
from . import host
from .together import encode_together, encoders

_BATCH = 32  # prompts encoded in one go where the host allows it


def prediction_of(model: Any) -> str:
    """What the network was trained to tell, ``eps`` or ``v``; raises WrongFamily for anything else."""
    found = host.prediction_of(model)
    if found is None:
        raise WrongFamily(
            "This model does not predict noise or velocity at whole timesteps, so it cannot be trained here. Connect a "
            "Stable Diffusion 1, 2 or XL before nodes that change how it is sampled, such as ModelSamplingDiscrete."
        )
    return found


class HostNetwork:
    """The denoiser of a MODEL while it is open. ``renew`` takes hold of weights that the host has moved."""

    def __init__(self, model: Any, slots: Mapping[str, Slot], renew: Any) -> None:
        self._model, self._slots, self._renew = model, slots, renew

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return host.dtype_of(self._model)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return host.device_of(self._model)

    def place(self, layer: str) -> Place:
        """The module of a layer by canonical name; raises NothingMatched if there is none."""
        return _place(host.network_of(self._model), self._slots, layer)

    def heads(self, layer: str) -> int:
        """Number of heads of an attention by canonical name."""
        return host.heads_of(host.network_of(self._model), self._slots[f"{layer}.to_q.weight"])

    def predict(self, x: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """Raw output [B, c, h, w] for x [B, c, h, w] at training timesteps t [B]; SDXL is told the size of x.

        Raises the host's interruption if the user pressed cancel.
        """
        host.stop_if_asked()
        if host.is_away(self._model):
            host.load(self._model, tuple(x.shape[1:]))
            self._renew()
        given = texts.to(self.device, self.dtype)
        pooled = None if given.pooled is None else normal(given.pooled)
        x, t = normal(x).to(self.device, self.dtype), normal(t).to(self.device)
        return host.ask(self._model, x, t, normal(given.hidden), pooled)


class HostTexts:
    """The text encoders of a CLIP while they are open. ``width``: of the rows that the denoiser reads."""

    def __init__(self, clip: Any, slots: Mapping[str, Slot], width: int, pooled: bool) -> None:
        self._clip, self._slots, self._width, self._pooled = clip, slots, width, pooled

    def place(self, layer: str) -> Place:
        """The module of a layer by canonical name; raises NothingMatched if there is none."""
        return _place(host.text_network_of(self._clip), self._slots, layer)

    def read(self, prompts: Collection[str]) -> Texts:
        """Rows [B, 77, d] and pooled [B, p]; raises BadInput for a prompt that is longer than one chunk."""
        tokens = [host.tokenize(self._clip, prompt) for prompt in prompts]
        for prompt, own in zip(prompts, tokens, strict=True):
            if len(own[encoders(own)[0]]) != 1:
                raise BadInput(f"The prompt '{prompt[:40]}' is longer than 77 tokens; training takes shorter ones.")
        size = 1 if self._pooled else _BATCH  # of several chunks the host gives the first one's pooled vector
        parts = [
            encode_together(self._clip, tokens[start : start + size], self._width)
            for start in range(0, len(tokens), size)
        ]
        vectors = [vector for _, vector in parts if vector is not None]
        return Texts(
            torch.cat([row for rows, _ in parts for row in rows]), torch.cat(vectors) if self._pooled else None
        )


@contextmanager
def open_denoiser(
    model: Any, slots: Mapping[str, Slot], shape: tuple[int, int, int], checkpointing: bool
) -> Iterator[HostNetwork]:
    """The denoiser frozen, with gradients through it. ``shape``: of one latent, for which room is made.

    Membranes of earlier nodes that changed weights are in force, as every LoRA; those with gates are not.
    """
    prediction_of(model)
    model = host.steady(model)
    network = host.network_of(model)
    _check(network, model)
    host.load(model, shape)
    blocks = transformer_blocks(network) if checkpointing else []
    with host.unpacked(network), frozen([network]) as renew, recomputed(blocks) if blocks else nullcontext():
        yield HostNetwork(model, slots, renew)


@contextmanager
def open_texts(clip: Any, slots: Mapping[str, Slot], width: int, pooled: bool) -> Iterator[HostTexts]:
    """The text encoders frozen, with gradients through them."""
    clip = host.steady(clip)
    network = host.text_network_of(clip)
    _check(network)
    host.load(host.text_patcher(clip))
    with host.unpacked(network), frozen([network]), host.apart(network):
        yield HostTexts(clip, slots, width, pooled)


def _place(network: Any, slots: Mapping[str, Slot], layer: str) -> Place:
    slot = slots.get(f"{layer}.weight")
    if slot is None:
        raise NothingMatched(f"This model has no layer {layer}, so it cannot be trained.")
    return host.places(network, {layer: slot}, [layer])[layer]


def _check(network: Any, model: Any = None) -> None:
    """Raise what makes training impossible, before anything is loaded."""
    for name, weight in network.named_parameters():
        packed = getattr(weight, "tensor_type", None)
        if packed is not None or not weight.is_floating_point():
            raise BadInput(
                f"The weight {name} is quantised ({packed or weight.dtype}), and gradients do not pass through it. "
                "Load the model unquantised, or as fp8, to train."
            )
    if model is not None and host.inputs_of(network) != host.latent_channels(model):
        raise WrongFamily(
            f"This denoiser reads {host.inputs_of(network)} channels of latents of {host.latent_channels(model)}: an "
            "inpainting or editing model. Train on the model it was made from; the result works on both."
        )

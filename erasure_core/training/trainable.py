"""What training asks of a model, in a pipeline or in a host's graph: its denoiser, open for gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..chain import Place
from ..keys.layout import Shape
from ..models import EditableModel
from .texts import Texts


class Network(Protocol):
    """A denoiser that autograd can look through; its own weights are frozen and not to be changed.

    Everything happens in the space of the training noise, ``x = sqrt(a_t) x0 + sqrt(1 - a_t) noise``, whatever scale
    the host's samplers use.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Precision it computes in."""

    @property
    def device(self) -> torch.device:
        """Where it lives while it is open."""

    def place(self, layer: str) -> Place:
        """The module of a layer, by canonical name without ``.weight``, as it runs: hooks on it see every call."""

    def predict(self, x: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """The network's raw output [B, c, h, w] (noise or velocity) for x [B, c, h, w] at training timesteps t [B]."""


class TextNetwork(Protocol):
    """A text encoder that autograd can look through; its own weights are frozen and not to be changed."""

    def place(self, layer: str) -> Place:
        """The module of a layer of the text encoder(s), by canonical name without ``.weight``."""

    def read(self, prompts: Collection[str]) -> Texts:
        """Prompts of one chunk each as the denoiser reads them, with gradients into hooked layers."""


@runtime_checkable
class TrainableModel(EditableModel, Protocol):
    """A model whose denoiser can be trained against: everything an erasure's training needs, and nothing of a host."""

    @property
    def sigmas(self) -> Tensor:
        """Noise level of every training timestep, ascending: ``sqrt((1 - a_t) / a_t)``."""

    @property
    def prediction(self) -> str:
        """What the network's output is: ``eps`` or ``v``."""

    @property
    def size(self) -> tuple[int, int]:
        """Native picture size, height and width in pixels."""

    @property
    def identity(self) -> str:
        """Short hash of the weights as they are now, without our own changes; equal for equal weights."""

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latents of pictures of ``size``, in pixels."""

    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every weight by canonical name, without reading any."""

    def open_denoiser(self, checkpointing: bool = False) -> AbstractContextManager[Network]:
        """The denoiser for training. In the block autograd is on; after it everything is bitwise as before.

        ``checkpointing``: keep only what enters each transformer block and compute the rest again on the way back:
        a third of the memory or less, a third more time.
        """

    def open_text(self) -> AbstractContextManager[TextNetwork]:
        """The text encoder(s) for training, as :meth:`open_denoiser` does the denoiser."""

"""The one contract between the core and whatever runs a diffusion model.

Erasing and applying need a text encoder and a denoiser: :class:`EditableModel`, which a host's graph has to offer.
Drawing pictures needs more: :class:`Model`. Everything else is written against these once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .acting import Action
    from .erasure import WeightDelta
    from .guidance import GuidanceTerm
    from .guidance.text import Steered


@dataclass(frozen=True)
class Encoded:
    """Text as the denoiser receives it.

    ``hidden`` [B, 77k, d]: the rows that the denoiser reads, k chunks of 77 positions; of T5 one chunk of any length n.
    ``tokens``: encoder name -> ids [B, k, 77] or [B, 1, n], specials and padding included; the rows' encoder first.
    ``eos`` [B, k]: position of the first end-of-text token inside each chunk of the first encoder.
    ``pooled`` [B, p] or None: the pooled vector (SDXL: 1280).
    ``extras``: what else the denoiser needs (SDXL: ``time_ids`` [B, 6]); ``chunks`` [B]: how many are a prompt's own,
    ``rows`` [B]: the same for rows of T5, the rest of ``hidden`` being zero. ``lead``: special tokens before the words
    of a chunk, 1 for CLIP, 0 for T5. ``words``: of each prompt, ids in CLIP's vocabulary, where the rows are T5's.
    """

    hidden: Tensor
    tokens: Mapping[str, Tensor]
    eos: Tensor
    pooled: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    lead: int = 1
    words: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def take(self, index: Sequence[int] | Tensor) -> Encoded:
        """The prompts at ``index``, in that order."""
        rows = torch.as_tensor(index, dtype=torch.long)

        def pick(value: Any) -> Any:
            return value[rows.to(value.device)] if isinstance(value, Tensor) and len(value) == len(self) else value

        return Encoded(
            pick(self.hidden),
            {name: pick(ids) for name, ids in self.tokens.items()},
            pick(self.eos),
            None if self.pooled is None else pick(self.pooled),
            {name: pick(value) for name, value in self.extras.items()},
            self.lead,
            None if self.words is None else tuple(self.words[i] for i in rows.tolist()),
        )


class Patch(Protocol):
    """What :meth:`Model.patch` returns: in force until ``undo`` is called, which restores the model bitwise."""

    def undo(self) -> None:
        """Restore the model exactly; calling it again does nothing."""


@runtime_checkable
class EditableModel(Protocol):
    """Text encoder(s) and denoiser of a text-to-image diffusion model, as far as erasures are concerned."""

    @property
    def family(self) -> str:
        """Architecture class: ``sd1``, ``sd2``, ``sdxl``."""

    @property
    def spaces(self) -> Mapping[str, int]:
        """Text spaces by name and width, the cross-attention space first: ``{"clip_l": 768}``."""

    @property
    def clip_skip(self) -> int:
        """Which layer the rows come from: 1 = last, 2 = the one before."""

    @property
    def neutrals(self) -> Mapping[str, str]:
        """Kind of concept -> words for "nothing in particular" where this model has its own; mostly empty."""

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Encode prompts of any length, weights and brackets treated as the host does."""

    def encode_ids(self, tokens: Mapping[str, Tensor]) -> Encoded:
        """Encode single chunks of token ids [B, 77] by encoder, specials and padding as they stand, without weights."""

    def weights(self) -> Mapping[str, Tensor]:
        """Canonical name -> the weight without our patches, dequantised, read when asked for."""

    def patch(self, actions: Sequence[Action], deltas: Sequence[WeightDelta], rows: str = "cond") -> Patch:
        """Put the membranes' maps before the denoiser, their changes added up, and add deltas to weights."""


@runtime_checkable
class Model(EditableModel, Protocol):
    """A text-to-image diffusion model: text encoder(s), denoiser and autoencoder behind one surface."""

    @property
    def fingerprint(self) -> str:
        """Short hash of all weights as they are now; equal for equal weights."""

    @property
    def text_fingerprint(self) -> str:
        """The same for the text encoder(s) alone."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision the denoiser computes in."""

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""

    @property
    def sigmas(self) -> Tensor:
        """Noise level of every training timestep, ascending."""

    @property
    def scheduler(self) -> str:
        """Which sampler draws the pictures: its name and a hash of its settings."""

    @property
    def size(self) -> tuple[int, int]:
        """Native picture size, height and width in pixels."""

    def predict(self, x: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """One evaluation of the denoiser: x [B, c, h, w], t [B] or scalar training timestep."""

    def sample(
        self,
        encoded: Encoded | Steered,
        negative: Encoded | None = None,
        seed: int | Sequence[int] = 0,
        steps: int = 20,
        cfg: float = 5.0,
        size: tuple[int, int] | None = None,
        callback: Callable[[int, int], None] | None = None,
        guidance: Sequence[GuidanceTerm] = (),
    ) -> Tensor:
        """Latents [B, c, h, w]; picture i starts from the noise of its own seed, whatever the batch.

        ``guidance``: terms of :mod:`erasure_core.guidance` that act on the way; those that are off change no bit.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1, float32 on the processor."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Scaled latents of pictures [B, 3, H, W] in 0..1 (mean of the posterior)."""


def from_pipeline(pipe: Any) -> Model:
    """Wrap a loaded diffusers pipeline (SD1.x, SD2.x, SDXL); needs diffusers and transformers."""
    from .backends.diffusers import DiffusersModel

    return DiffusersModel(pipe)


def load_demo() -> Model:
    """The bundled shapes-world model; needs diffusers and transformers, downloads nothing."""
    from .backends.diffusers import DiffusersModel
    from .demo.bundle import load_pipeline
    from .demo.captions import NEUTRALS

    return DiffusersModel(load_pipeline(), neutrals=NEUTRALS)

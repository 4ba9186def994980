"""A loaded diffusers pipeline (SD1.x, SD2.x, SDXL) behind the :class:`~erasure_core.models.Model` contract."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..acting import Action
from ..encoding import EncodedText, TextEncoder, encode_text
from ..erasure import WeightDelta
from ..errors import BadInput, WrongFamily
from ..guidance import GuidanceTerm
from ..guidance.attention import AttentionTerm
from ..guidance.text import Steered
from ..keys import family_of
from ..models import Encoded
from .branches import Branches, repeat_to
from .patching import Patching, PipelinePatch
from .steering import SteeringPatch
from .training import PipelineNetwork, PipelineTexts, open_texts, open_unet, prediction_of
from .weights import PipelineWeights, fingerprint, hidden_rows

_DECODE_BATCH = 16


class DiffusersModel:
    """A diffusers pipeline as a model the core can erase from, sample and measure.

    ``clip_skip``: 1 reads the text encoder's last layer, 2 the one before; None takes what the family was trained with.
    ``neutrals``: the model's own words for "nothing in particular", by kind of concept. Raises WrongFamily for
    pipelines without a U-Net that reads text through cross-attention.
    """

    def __init__(self, pipe: Any, clip_skip: int | None = None, neutrals: Mapping[str, str] | None = None) -> None:
        if not hasattr(pipe, "unet") or not hasattr(pipe, "text_encoder") or not hasattr(pipe, "vae"):
            raise WrongFamily(
                f"{type(pipe).__name__} has no U-Net with a text encoder and an autoencoder. "
                "Load a Stable Diffusion 1, 2 or XL pipeline."
            )
        self.pipe = pipe
        self.neutrals = dict(neutrals or {})
        self._weights = PipelineWeights(pipe)
        self._family = family_of(self._weights.shapes()).name
        self.clip_skip = clip_skip or (2 if self._family == "sdxl" else 1)
        self._patching = Patching(pipe, self._weights)
        self._encoders = self._make_encoders()
        self.evaluations = 0
        """Rows that the denoiser has evaluated for this object so far; plain guidance takes 2 per picture and step."""

    @property
    def family(self) -> str:
        """``sd1``, ``sd2`` or ``sdxl``."""
        return self._family

    @property
    def spaces(self) -> Mapping[str, int]:
        """Text spaces by name and width, the cross-attention space first."""
        width = self.pipe.unet.config.cross_attention_dim
        if self._family == "sdxl":
            return {"sdxl_lg": width, "sdxl_pooled": self.pipe.text_encoder_2.config.projection_dim}
        return {"clip_h" if self._family == "sd2" else "clip_l": width}

    @property
    def fingerprint(self) -> str:
        """Short hash of text encoders, denoiser and autoencoder as they are now."""
        modules = [self.pipe.unet, self.pipe.vae, *self._text_modules()]
        return fingerprint(*modules)

    @property
    def text_fingerprint(self) -> str:
        """Short hash of the text encoders as they are now."""
        return fingerprint(*self._text_modules())

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser."""
        return next(self.pipe.unet.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the denoiser lives."""
        return next(self.pipe.unet.parameters()).device

    @property
    def sigmas(self) -> Tensor:
        """Noise level of every training timestep, ascending."""
        alphas = self.pipe.scheduler.alphas_cumprod
        return ((1 - alphas) / alphas).sqrt()

    @property
    def scheduler(self) -> str:
        """The sampler's class and a hash of its settings."""
        # names with an underscore are bookkeeping of the library that wrote the file, such as its version
        settings = {k: str(v) for k, v in self.pipe.scheduler.config.items() if not k.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{type(self.pipe.scheduler).__name__}/{digest[:8]}"

    @property
    def size(self) -> tuple[int, int]:
        """Native picture height and width in pixels."""
        latent = self.pipe.unet.config.sample_size
        height, width = (latent, latent) if isinstance(latent, int) else latent
        return height * self._factor, width * self._factor

    @property
    def prediction(self) -> str:
        """What the denoiser's output is: ``eps`` or ``v``."""
        return prediction_of(self.pipe.scheduler)

    @property
    def identity(self) -> str:
        """The same as :attr:`fingerprint`."""
        return self.fingerprint

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latents of pictures of ``size``, height and width in pixels."""
        return self.pipe.unet.config.in_channels, size[0] // self._factor, size[1] // self._factor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by canonical name, without reading any."""
        return self._weights.shapes()

    def open_denoiser(self, checkpointing: bool = False) -> AbstractContextManager[PipelineNetwork]:
        """The U-Net for training, frozen; see :class:`~erasure_core.training.trainable.TrainableModel`."""

        def predict(x: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
            return self._predict(x, t, _sized(encoded, (x.shape[-2] * self._factor, x.shape[-1] * self._factor)))

        return open_unet(self.pipe.unet, checkpointing, predict)

    def open_text(self) -> AbstractContextManager[PipelineTexts]:
        """The text encoder(s) for training, frozen."""
        normed = self._family != "sdxl"
        return open_texts(
            self._text_modules(), self._encoders, lambda module, ids: hidden_rows(module, ids, self.clip_skip, normed)
        )

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def weights(self) -> Mapping[str, Tensor]:
        """Canonical name -> float32 copy of the unpatched weight, read when asked for."""
        return self._weights

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Encode prompts of any length, weights and brackets treated as the host does."""
        parts = {encoder.name: encode_text(encoder, prompts) for encoder in self._encoders}
        first = next(iter(parts.values()))
        hidden = torch.cat([repeat_to(p.hidden, _common(parts)) for p in parts.values()], dim=-1)
        extras: dict[str, Any] = {"chunks": first.chunks}
        pooled = None
        if self._family == "sdxl":
            pooled = parts["clip_g"].pooled
            extras["time_ids"] = torch.tensor([_time_ids(*self.size)] * len(prompts))
        return Encoded(hidden, {name: part.ids for name, part in parts.items()}, first.eos, pooled, extras)

    def encode_ids(self, tokens: Mapping[str, Tensor]) -> Encoded:
        """Encode single chunks of token ids [B, 77] by encoder, specials and padding as they stand, without weights."""
        chunks = {name: [tuple(chunk) for chunk in ids.tolist()] for name, ids in tokens.items()}
        parts = [encoder.rows(chunks[encoder.name]) for encoder in self._encoders]
        hidden = torch.cat([torch.stack([rows for rows, _ in part]) for part in parts], dim=-1)
        pooled = torch.stack([p for _, p in parts[-1] if p is not None]) if self._family == "sdxl" else None
        first = self._encoders[0]
        ends = (tokens[first.name] == first.eos).int().argmax(1, keepdim=True)
        extras: dict[str, Any] = {"chunks": torch.ones(len(hidden), dtype=torch.long)}
        if pooled is not None:
            extras["time_ids"] = torch.tensor([_time_ids(*self.size)] * len(hidden))
        return Encoded(hidden, {name: ids.unsqueeze(1) for name, ids in tokens.items()}, ends, pooled, extras)

    def predict(self, x: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """One evaluation of the denoiser, [B, c, h, w]; every row counts as a prompt's own."""
        return self._predict(x, t, encoded)

    def _predict(self, x: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        added = None
        if encoded.pooled is not None:
            added = {"text_embeds": self._to(encoded.pooled), "time_ids": self._to(encoded.extras["time_ids"])}
        self.evaluations += len(x)
        result: Tensor = self.pipe.unet(
            x, t, encoder_hidden_states=self._to(encoded.hidden), added_cond_kwargs=added, return_dict=False
        )[0]
        return result

    @torch.no_grad()
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
        """Latents [B, c, h, w]; picture i starts from its own seed's noise. ``callback(step, steps)`` may raise.

        ``guidance``: terms of :mod:`erasure_core.guidance`, whose texts share the prompts' batch. A term that does
        nothing at this scale is named in a log line. Steered texts may change during the run.
        """
        count = len(encoded)
        generators = [torch.Generator().manual_seed(s) for s in _seeds(seed, count)]
        height, width = size or self.size
        shape = self.latent_shape((height, width))
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(steps)
        x = torch.stack([torch.randn(shape, generator=g) for g in generators]) * scheduler.init_noise_sigma
        x = self._to(x)
        extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        branches = Branches(
            self,
            scheduler,
            prompts=lambda progress: encoded if isinstance(encoded, Encoded) else encoded.at(progress),
            negative=lambda: self._negative(negative, count),
            cfg=cfg,
            guidance=guidance,
            predict=lambda x, t, rows: self._predict(x, t, _sized(rows, (height, width))),
            rows=self._patching.rows,
        )
        for i, t in enumerate(scheduler.timesteps):
            prediction = branches(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(prediction, t, x, return_dict=False, **extra)[0]
            if callback is not None:
                callback(i + 1, len(scheduler.timesteps))
        return x

    def _negative(self, negative: Encoded | None, count: int) -> Encoded:
        other = self.encode([""]) if negative is None else negative
        if len(other) == 1 and count > 1:
            other = other.take([0] * count)
        if len(other) != count:
            raise BadInput(f"There are {count} prompts but {len(other)} negative prompts; give one or as many.")
        return other

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1, float32 on the processor."""
        config = self.pipe.vae.config
        scaled = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        scaled = scaled.to(next(self.pipe.vae.parameters()))
        parts = [self.pipe.vae.decode(part, return_dict=False)[0] for part in scaled.split(_DECODE_BATCH)]
        return (torch.cat(parts).float().cpu() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Scaled latents of pictures [B, 3, H, W] in 0..1 (mean of the posterior)."""
        config = self.pipe.vae.config
        pictures = (images * 2 - 1).to(next(self.pipe.vae.parameters()))
        parts = [self.pipe.vae.encode(part).latent_dist.mean for part in pictures.split(_DECODE_BATCH)]
        return (torch.cat(parts) - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    def patch(
        self,
        actions: Sequence[Action],
        deltas: Sequence[WeightDelta],
        rows: str = "cond",
    ) -> PipelinePatch:
        """Put the membranes' maps in front of the denoiser and add deltas to the weights, until the result's ``undo``.

        ``rows``: "cond" leaves the negative half of guided sampling alone, "all" maps it, too. A pipeline that the
        caller runs by itself does not say which rows are negative, so there every row is mapped.
        """
        return self._patching.add(actions, deltas, rows)

    def steer(self, terms: AttentionTerm | Sequence[AttentionTerm]) -> SteeringPatch:
        """Put attention-space terms in force, in every sampling at any guidance, until the result's ``undo``.

        Which rows are the negative half only :meth:`sample` says; in a pipeline that the caller runs by itself the
        terms act on every row. Raises WrongFamily or NothingMatched before anything changes.
        """
        given = [terms] if isinstance(terms, AttentionTerm) else list(terms)
        return SteeringPatch(self.pipe.unet, self._patching, self.pipe.scheduler.config.num_train_timesteps, given)

    def _to(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)

    def _text_modules(self) -> list[Any]:
        return [m for m in (self.pipe.text_encoder, getattr(self.pipe, "text_encoder_2", None)) if m is not None]

    def _make_encoders(self) -> list[TextEncoder]:
        names = ["clip_l", "clip_g"] if self._family == "sdxl" else list(self.spaces)[:1]
        tokenizers = [self.pipe.tokenizer, getattr(self.pipe, "tokenizer_2", None)]
        made = []
        for name, tokenizer, module in zip(names, tokenizers, self._text_modules(), strict=False):
            made.append(_encoder(name, tokenizer, module, self.clip_skip, normed=self._family != "sdxl"))
        return made


def _encoder(name: str, tokenizer: Any, module: Any, clip_skip: int, normed: bool) -> TextEncoder:
    return TextEncoder(
        name=name,
        tokenize=lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]),
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        run=torch.no_grad()(lambda ids: hidden_rows(module, ids, clip_skip, normed)),
        fingerprint=lambda: fingerprint(module),
        clip_skip=clip_skip,
    )


def _common(parts: Mapping[str, EncodedText]) -> int:
    return math.lcm(*(part.hidden.shape[1] for part in parts.values()))


def _sized(encoded: Encoded, size: tuple[int, int]) -> Encoded:
    if encoded.pooled is None:
        return encoded
    ids = torch.tensor([_time_ids(*size)] * encoded.hidden.shape[0])
    return Encoded(encoded.hidden, encoded.tokens, encoded.eos, encoded.pooled, {**encoded.extras, "time_ids": ids})


def _time_ids(height: int, width: int) -> list[int]:
    """SDXL's size conditioning: original size, crop corner, target size."""
    return [height, width, 0, 0, height, width]


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seed, int):
        return [seed + i for i in range(count)]
    if len(seed) != count:
        raise BadInput(f"There are {count} prompts but {len(seed)} seeds; give one number or as many as prompts.")
    return list(seed)

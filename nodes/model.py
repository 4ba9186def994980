"""A MODEL and a CLIP of a graph behind the core's contract; patching makes clones, so nothing ever has to be undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.acting import Action
from ..erasure_core.bottleneck import check_bottlenecks
from ..erasure_core.erasure import WeightDelta, check_deltas
from ..erasure_core.errors import BadInput, NothingMatched
from ..erasure_core.keys import family_of
from ..erasure_core.keys.layout import Shape
from ..erasure_core.keys.text import Slot
from ..erasure_core.models import Encoded
from . import host
from .acting import Entry, Membranes
from .stamp import END, stamped, token_ids
from .t5 import T5Texts
from .together import encode_together, encoders
from .training import HostNetwork, HostTexts, open_denoiser, open_texts, prediction_of
from .weights import HostWeights

_BATCH = 32  # prompts encoded in one go where the host allows it
_SIDES = {"sd1": 512, "sd2": 512, "sd2-v": 768, "sdxl": 1024, "flux": 1024}  # pixels, as they were trained
_REMEMBERED = 2048  # prompts; of SDXL 0.63 MB each


class HostPatch:
    """Clones of MODEL and CLIP with membranes in force; the ones that were given are untouched.

    ``tell`` takes what the node shows, to be sent along with the live gains.
    """

    def __init__(self, model: Any, clip: Any, tell: Callable[[Mapping[str, Any]], None] = lambda panel: None) -> None:
        self.model, self.clip, self.tell = model, clip, tell

    def undo(self) -> None:
        """Nothing to do: using the original again is all it takes."""


class HostModel:
    """What erasing and applying need of a graph. ``node_id`` is where progress and live gains are shown.

    Raises WrongFamily for a model or text encoder that is no Stable Diffusion 1, 2 or XL, or Flux.
    """

    def __init__(self, model: Any, clip: Any, node_id: str | None = None) -> None:
        self._model, self._clip, self._node_id = model, clip, node_id
        self._family = family_of({**host.shapes(model), **host.shapes(host.text_patcher(clip))})
        self._weights = HostWeights(self._family, model, host.text_patcher(clip))
        self._t5 = T5Texts(clip, self._family.context, node_id) if self.family == "flux" else None
        self._encoded: dict[str, tuple[Tensor, dict[str, list[list[int]]], Tensor | None]] = {}
        self._bar: Callable[[int], None] | None = None
        self._done = self._total = 0

    @property
    def family(self) -> str:
        """``sd1``, ``sd2``, ``sdxl`` or ``flux``."""
        return self._family.name

    @property
    def spaces(self) -> Mapping[str, int]:
        """Text spaces by name and width, the cross-attention space first."""
        widths = {self._family.spaces[0]: self._family.context}
        if self.family == "sdxl":
            widths[self._family.spaces[1]] = self._family.text[1].projection or 0
        return widths

    @property
    def clip_skip(self) -> int:
        """1 = the last layer, 2 = the one before; what CLIP Set Last Layer says, else the family's usual one."""
        return host.clip_skip_of(self._clip) or (2 if self.family == "sdxl" else 1)

    @property
    def neutrals(self) -> Mapping[str, str]:
        """The demo model's own neutral words; empty for others."""
        words: Mapping[str, str] = getattr(host.settings_of(self._model), "membrane_neutrals", {})
        return words

    @property
    def identity(self) -> str:
        """Short hash of the weights with the LoRAs of earlier nodes but without our own changes."""
        return self._weights.fingerprint()[:16]

    @property
    def prediction(self) -> str:
        """What the denoiser's output is: ``eps`` or ``v``. Raises WrongFamily for others."""
        return prediction_of(self._model)

    @property
    def sigmas(self) -> Tensor:
        """Noise level of every training timestep, ascending."""
        return host.levels(self._model)

    @property
    def size(self) -> tuple[int, int]:
        """Native picture height and width in pixels."""
        own: int | None = getattr(host.settings_of(self._model), "membrane_size", None)
        side = own or (_SIDES["sd2-v"] if self.family == "sd2" and self.prediction == "v" else _SIDES[self.family])
        return side, side

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the latents of pictures of ``size``, height and width in pixels."""
        return host.latent_channels(self._model), size[0] // host.SCALE, size[1] // host.SCALE

    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every weight by canonical name, without reading any."""
        return self._weights.shapes()

    def open_denoiser(self, checkpointing: bool = False) -> AbstractContextManager[HostNetwork]:
        """The denoiser for training, frozen; see :class:`~erasure_core.training.trainable.TrainableModel`.

        Weights are as earlier nodes made them; membranes with gates, which act while a sampler runs, are left out.
        """
        return open_denoiser(self._model, self._weights.slots, self.latent_shape(self.size), checkpointing)

    def open_text(self) -> AbstractContextManager[HostTexts]:
        """The text encoder(s) for training, frozen."""
        return open_texts(self._clip, self._weights.slots, self._family.context, self.family == "sdxl")

    def weights(self) -> Mapping[str, Tensor]:
        """Canonical name -> float32 copy with the LoRAs of earlier nodes but without our own changes."""
        return self._weights

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Encode prompts of any length as the host does; the last few thousand are remembered by this object."""
        if not prompts:
            raise BadInput("There is no prompt to encode.")
        if self._t5 is not None:
            return self._t5.encode(prompts)
        self._encode_missing([p for p in dict.fromkeys(prompts) if p not in self._encoded])
        found = [self._encoded[prompt] for prompt in prompts]
        self._remember(prompts)
        names = list(found[0][1])
        chunks = [len(ids[names[0]]) for _, ids, _ in found]
        longest = math.lcm(*chunks)
        hidden = torch.cat([rows.repeat(1, longest // own, 1) for (rows, _, _), own in zip(found, chunks, strict=True)])
        tokens = {
            name: torch.stack([torch.tensor(ids[name] * (longest // len(ids[name]))) for _, ids, _ in found])
            for name in names
        }
        ends = torch.tensor([[chunk.index(END) for chunk in row.tolist()] for row in tokens[names[0]]])
        pooled = None
        if self.family == "sdxl":
            pooled = torch.cat([vector for _, _, vector in found if vector is not None])
        return Encoded(hidden, tokens, ends, pooled, {"chunks": torch.tensor(chunks)})

    def encode_ids(self, tokens: Mapping[str, Tensor]) -> Encoded:
        """Encode single chunks of token ids [B, 77] by encoder, specials and padding as they stand, without weights."""
        keys = {ours: key for key, ours in host.ENCODERS.items()}
        count = len(next(iter(tokens.values())))
        chunks = [
            {keys[name]: [[(token, 1.0) for token in ids[i].tolist()]] for name, ids in tokens.items()}
            for i in range(count)
        ]
        size = 1 if self.family == "sdxl" else _BATCH
        parts = [self._encode_together(chunks[start : start + size]) for start in range(0, count, size)]
        found = [entry for part in parts for entry in part]
        ends = (next(iter(tokens.values())) == END).int().argmax(1, keepdim=True)
        pooled = None
        if self.family == "sdxl":
            pooled = torch.cat([vector for _, vector in found if vector is not None])
        return Encoded(
            torch.cat([rows for rows, _ in found]),
            {name: ids.unsqueeze(1) for name, ids in tokens.items()},
            ends,
            pooled,
            {"chunks": torch.ones(count, dtype=torch.long)},
        )

    def announce(self, prompts: int) -> None:
        """So many prompts will be given to :meth:`encode` in several calls: one bar of progress for all of them."""
        self._bar, self._done, self._total = host.progress(prompts, self._node_id), 0, prompts

    def _remember(self, prompts: Sequence[str]) -> None:
        own = dict.fromkeys(prompts)
        for prompt in own:
            self._encoded[prompt] = self._encoded.pop(prompt)  # to the end: those used last are kept longest
        while len(self._encoded) > _REMEMBERED:
            del self._encoded[next(iter(self._encoded))]
        self._done += len(own)
        if self._done >= self._total:
            self._bar = None

    def _encode_missing(self, prompts: Sequence[str]) -> None:
        if not prompts:
            return
        begun = 0 if self._bar is None else self._done
        advance = self._bar or host.progress(len(prompts), self._node_id)
        size = 1 if self.family == "sdxl" else _BATCH  # of several chunks the host gives the first one's pooled vector
        for start in range(0, len(prompts), size):
            host.stop_if_asked()
            part = prompts[start : start + size]
            tokens = [host.tokenize(self._clip, prompt) for prompt in part]
            for prompt, own, (rows, pooled) in zip(part, tokens, self._encode_together(tokens), strict=True):
                ids = {host.ENCODERS.get(key, key): [token_ids(chunk) for chunk in own[key]] for key in encoders(own)}
                self._encoded[prompt] = (rows, ids, pooled)
            advance(begun + start + len(part))

    def _encode_together(self, tokens: Sequence[Mapping[str, Any]]) -> list[tuple[Tensor, Tensor | None]]:
        """Prompts as the chunks of one, with the pooled vector of the first."""
        with torch.no_grad():  # trainings ask with gradients on
            parts, pooled = encode_together(self._clip, tokens, self._family.context)
        vector = None if pooled is None else pooled.detach().clone()
        return [(rows.detach().clone(), vector) for rows in parts]

    def patch(self, actions: Sequence[Action], deltas: Sequence[WeightDelta], rows: str = "cond") -> HostPatch:
        """Clones with the maps in front of the denoiser and the deltas added to the weights."""
        if rows not in ("cond", "all"):
            raise BadInput(f"rows must be 'cond' or 'all', not {rows!r}.")
        model, clip = host.clone(self._model), stamped(self._clip)
        root = f"{self._family.root}."
        self._add(model, [delta for delta in deltas if delta.name.startswith(root)])
        self._add(host.text_patcher(clip), [delta for delta in deltas if not delta.name.startswith(root)])
        if actions:
            earlier = host.wrapper_of(model)
            entries = [Entry(action, rows, self._node_id) for action in actions]
            before = earlier.entries if earlier is not None else ()
            acting = Membranes([*before, *entries], self._where(actions) | (earlier.where if earlier else {}))
            acting.panels.update(earlier.panels if earlier is not None else {})
            host.put_wrappers(model, acting, acting.around_sampling)
            return HostPatch(model, clip, lambda panel: acting.panels.update({self._node_id: panel}))
        return HostPatch(model, clip)

    def _where(self, actions: Sequence[Action]) -> dict[str, Slot]:
        """Where the layers are that ``actions`` change; raises if this model has them not, or of other shapes."""
        deltas = [delta for action in actions for delta in action.deltas.values()]
        erasers = [eraser for action in actions for eraser in action.bottlenecks.values()]
        shapes = self._weights.shapes()
        check_deltas(deltas, shapes)
        check_bottlenecks(erasers, shapes)
        layers = [delta.name.rpartition(".") for delta in deltas]
        layers += [(f"{eraser.name}.to_out.0", ".", "weight") for eraser in erasers]
        return {layer: self._weights.slots[layer + dot + kind] for layer, dot, kind in layers}

    def _add(self, patcher: Any, deltas: Sequence[WeightDelta]) -> None:
        if not deltas:
            return
        check_deltas(deltas, self._weights.shapes())
        taken = 0
        for delta in deltas:  # one by one: several membranes may change the same weight
            slot = self._weights.slots[delta.name]
            place = host.place(slot.key, slot.start, slot.length)
            if delta.up is None or delta.down is None:
                found = host.add_full(patcher, {place: slot.given(delta.dense())})
            else:
                up = slot.given(delta.up.float() * delta.scale)
                found = host.add_low_rank(patcher, {place: (up, delta.down.float())})
            taken += len(found)
        if taken != len(deltas):
            raise NothingMatched(f"ComfyUI took only {taken} of {len(deltas)} changes of weights.")

"""Model families: recognised from keys and shapes, never from file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..errors import WrongFamily
from .flux import FluxLayout, flux_layout_of, is_flux
from .layout import Shape, UNetLayout
from .text import CLIP_G, CLIP_H, CLIP_L, CLIP_L_FLUX, CLIP_L_XL, Slot, TextLayout
from .unet import layout_of, ldm_names

CHECKPOINT_PREFIX = "model.diffusion_model."
HOST_PREFIX = "diffusion_model."
SPACES = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("sdxl_lg", "sdxl_pooled"), "flux": ("t5",)}
_TEXT = {"sd1": (CLIP_L,), "sd2": (CLIP_H,), "sdxl": (CLIP_L_XL, CLIP_G), "flux": (CLIP_L_FLUX,)}
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_PREFIXES = (CHECKPOINT_PREFIX, HOST_PREFIX, "unet.", "transformer.")
_OTHERS = (  # keys, dotted or as kohya stems, that only this kind of network has
    (re.compile(r"joint_blocks[._]\d"), "Stable Diffusion 3"),
    (re.compile(r"^caption_projection\."), "PixArt"),
    (re.compile(r"pos_embed\.proj\."), "Stable Diffusion 3"),
    (re.compile(r"distilled_guidance_layer"), "Chroma"),
    (re.compile(r"(?:double|single)_stream_modulation|to_qkv_mlp_proj|[._]ff(?:_context)?[._]linear_in"), "Flux 2"),
    (re.compile(r"token_refiner"), "HunyuanVideo"),
    (  # Flux has 19 and 38; files of layers do not say how wide the rest of their model is
        re.compile(
            r"double_blocks[._](?:19|[2-9]\d)[._]|single_(?:transformer_)?blocks[._](?:3[89]|[4-9]\d)[._]"
            r"|(?<!single_)transformer_blocks[._](?:19|[2-9]\d)[._]attn[._]"
        ),
        "Stable Diffusion 3.5, HunyuanVideo, Qwen-Image or another model with more layers than Flux",
    ),
)


@dataclass(frozen=True)
class Family:
    """One architecture: its name (``sd1``, ``sd2``, ``sdxl``, ``flux``) and the numbers of its networks."""

    name: str
    denoiser: UNetLayout | FluxLayout
    text: tuple[TextLayout, ...]

    @property
    def root(self) -> str:
        """First part of the canonical names of the denoiser's weights: ``unet`` or ``transformer``."""
        return self.denoiser.root

    @property
    def context(self) -> int:
        """Width of the text vectors that the denoiser reads."""
        return self.denoiser.context

    @property
    def spaces(self) -> tuple[str, ...]:
        """Names of the text spaces, the one that the denoiser reads row by row first."""
        return SPACES[self.name]

    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every weight by canonical name, the denoiser's first."""
        return _shapes(self)

    def denoiser_slots(self) -> dict[str, Slot]:
        """Name of the denoiser's weights (no root) -> place by the names of its authors (no prefix)."""
        if isinstance(self.denoiser, FluxLayout):
            return self.denoiser.slots()
        return {ours: Slot(ldm) for ours, ldm in ldm_names(self.denoiser).items()}

    def checkpoint_slots(self) -> dict[str, Slot]:
        """Canonical name -> where the weight lies in a checkpoint of the model's authors."""
        result = self._prefixed(CHECKPOINT_PREFIX)
        for text in self.text:
            result |= {f"{text.root}.{name}": text.ldm_slot(name) for name in text.shapes()}
        return result

    def host_slots(self) -> dict[str, Slot]:
        """Canonical name -> where the weight lies in ComfyUI's model and text encoder patchers."""
        result = self._prefixed(HOST_PREFIX)
        for text in self.text:
            result |= {f"{text.root}.{name}": Slot(text.host + name) for name in text.shapes()}
        return result

    def _prefixed(self, prefix: str) -> dict[str, Slot]:
        return {
            f"{self.root}.{ours}": replace(slot, key=prefix + slot.key) for ours, slot in self.denoiser_slots().items()
        }


@lru_cache(maxsize=16)
def _shapes(family: Family) -> Mapping[str, Shape]:
    result = {f"{family.root}.{name}": shape for name, shape in family.denoiser.shapes().items()}
    for text in family.text:
        result |= {f"{text.root}.{name}": shape for name, shape in text.shapes().items()}
    return result


_SD1 = UNetLayout(
    channels=(320, 640, 1280, 1280),
    down=((1, 1), (1, 1), (1, 1), (0, 0)),
    middle=1,
    up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    context=768,
    linear=False,
    time=1280,
)
SD1 = Family("sd1", _SD1, _TEXT["sd1"])
SD2 = Family("sd2", replace(_SD1, context=1024, linear=True), _TEXT["sd2"])
SDXL = Family(
    "sdxl",
    UNetLayout(
        channels=(320, 640, 1280),
        down=((0, 0), (2, 2), (10, 10)),
        middle=10,
        up=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
        context=2048,
        linear=True,
        time=1280,
        label=2816,
    ),
    _TEXT["sdxl"],
)
FLUX = Family(
    "flux",
    FluxLayout(width=3072, head=128, double=19, single=38, inner=12288, context=4096, pooled=768),
    _TEXT["flux"],
)
FAMILIES = {family.name: family for family in (SD1, SD2, SDXL, FLUX)}


def family_of(weights: Mapping[str, Any]) -> Family:
    """The family of a model whose weights are given as name -> tensor or shape.

    Names may be canonical, bare diffusers, of the authors' checkpoint or of ComfyUI; a whole denoiser is needed, text
    encoders may be there. Raises :class:`UnknownFormat` if there is no whole denoiser, :class:`WrongFamily` if it is
    of a kind this package does not handle.
    """
    refuse_other_networks(weights)
    names = {_WRAPPERS.sub("", name): name for name in weights}
    prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in names)), "")
    bare = _Shapes(weights, {n[len(prefix) :]: original for n, original in names.items() if n.startswith(prefix)})
    denoiser = flux_layout_of(bare) if is_flux(bare) else layout_of(bare)
    name = "flux" if isinstance(denoiser, FluxLayout) else _name(denoiser)
    canonical = _Shapes(weights, names)
    return Family(name, denoiser, tuple(_text(canonical, layout) for layout in _TEXT[name]))


class _Shapes(Mapping[str, Shape]):
    """Shapes looked up only when asked for: a mapping of weights may have to dequantise each one that is read."""

    def __init__(self, weights: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._weights, self._names = weights, names

    def __getitem__(self, name: str) -> Shape:
        found = self._weights[self._names[name]]
        return tuple(getattr(found, "shape", found))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def refuse_other_networks(names: Iterable[str]) -> None:
    """Raise :class:`WrongFamily` if any key belongs to a network that is none of ours."""
    for name in names:
        for pattern, network in _OTHERS:
            if pattern.search(name):
                raise WrongFamily(
                    f"This is for {network} (it has {name}), which Membrane does not handle. "
                    "It works with Stable Diffusion 1, 2 and XL and with Flux (dev and schnell)."
                )


def _name(unet: UNetLayout) -> str:
    if unet.label is None:
        return "sd2" if unet.linear else "sd1"
    if unet.context == 1280:
        raise WrongFamily("This is the SDXL refiner. Concepts are erased from the SDXL base model; use that.")
    if not unet.linear or unet.context == 1024:
        raise WrongFamily("This U-Net is conditioned on images (unCLIP), which Membrane does not handle.")
    return "sdxl"


def _text(shapes: Mapping[str, Shape], usual: TextLayout) -> TextLayout:
    """The encoder's own numbers if its weights are there by transformers names, else those usual in the family."""
    for prefix in (f"{usual.root}.", usual.prefix, usual.host):
        table = f"{prefix}text_model.embeddings.token_embedding.weight"
        if table not in shapes:
            continue
        vocabulary, width = shapes[table]
        layer = f"{prefix}text_model.encoder.layers.{{}}.mlp.fc1.weight"
        layers = 0
        while layer.format(layers) in shapes:
            layers += 1
        inner = shapes[layer.format(0)][0] if layers else usual.inner
        projection = f"{prefix}text_projection.weight"
        return replace(
            usual,
            width=width,
            layers=layers,
            inner=inner,
            vocabulary=vocabulary,
            positions=shapes[f"{prefix}text_model.embeddings.position_embedding.weight"][0],
            projection=shapes[projection][0] if projection in shapes and usual.projection else usual.projection,
        )
    return usual

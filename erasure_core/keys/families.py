"""Model families: recognised from keys and shapes, never from file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..errors import WrongFamily
from .layout import Shape, UNetLayout
from .text import CLIP_G, CLIP_H, CLIP_L, CLIP_L_XL, Slot, TextLayout
from .unet import layout_of, ldm_names

CHECKPOINT_PREFIX = "model.diffusion_model."
HOST_PREFIX = "diffusion_model."
SPACES = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("sdxl_lg", "sdxl_pooled")}
_TEXT = {"sd1": (CLIP_L,), "sd2": (CLIP_H,), "sdxl": (CLIP_L_XL, CLIP_G)}
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_UNET_PREFIXES = (CHECKPOINT_PREFIX, HOST_PREFIX, "unet.")
_OTHERS = (  # keys, dotted or as kohya stems, that only this kind of network has
    (re.compile(r"joint_blocks[._]\d"), "Stable Diffusion 3"),
    (re.compile(r"(?:double|single)_blocks[._]\d|single_transformer_blocks[._]\d"), "Flux"),
    (re.compile(r"transformer_blocks[._]\d+[._]attn[._]"), "Flux or Stable Diffusion 3"),
    (re.compile(r"^caption_projection\."), "PixArt"),
)


@dataclass(frozen=True)
class Family:
    """One architecture: its name (``sd1``, ``sd2``, ``sdxl``) and the numbers of its networks."""

    name: str
    unet: UNetLayout
    text: tuple[TextLayout, ...]

    @property
    def context(self) -> int:
        """Width of the text vectors that enter cross-attention."""
        return self.unet.context

    @property
    def spaces(self) -> tuple[str, ...]:
        """Names of the text spaces, the one of cross-attention first."""
        return SPACES[self.name]

    def shapes(self) -> Mapping[str, Shape]:
        """Shape of every weight by canonical name, U-Net first."""
        return _shapes(self)

    def checkpoint_names(self) -> dict[str, Slot]:
        """Canonical name -> where the weight lies in an LDM checkpoint."""
        result = {f"unet.{ours}": Slot(CHECKPOINT_PREFIX + ldm) for ours, ldm in ldm_names(self.unet).items()}
        for text in self.text:
            result |= {f"{text.root}.{name}": text.ldm_slot(name) for name in text.shapes()}
        return result

    def host_names(self) -> dict[str, str]:
        """Canonical name -> name in ComfyUI's model and text encoder patchers."""
        result = {f"unet.{ours}": HOST_PREFIX + ldm for ours, ldm in ldm_names(self.unet).items()}
        for text in self.text:
            result |= {f"{text.root}.{name}": text.host + name for name in text.shapes()}
        return result


@lru_cache(maxsize=16)
def _shapes(family: Family) -> Mapping[str, Shape]:
    result = {f"unet.{name}": shape for name, shape in family.unet.shapes().items()}
    for text in family.text:
        result |= {f"{text.root}.{name}": shape for name, shape in text.shapes().items()}
    return result


SD1 = Family(
    "sd1",
    UNetLayout(
        channels=(320, 640, 1280, 1280),
        down=((1, 1), (1, 1), (1, 1), (0, 0)),
        middle=1,
        up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        context=768,
        linear=False,
        time=1280,
    ),
    _TEXT["sd1"],
)
SD2 = Family("sd2", replace(SD1.unet, context=1024, linear=True), _TEXT["sd2"])
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
FAMILIES = {family.name: family for family in (SD1, SD2, SDXL)}


def family_of(weights: Mapping[str, Any]) -> Family:
    """The family of a model whose weights are given as name -> tensor or shape.

    Names may be canonical, bare diffusers, of an LDM checkpoint or of ComfyUI; a whole U-Net is needed, text encoders
    may be there. Raises :class:`UnknownFormat` if there is no whole U-Net, :class:`WrongFamily` if it is of a kind
    this package does not handle.
    """
    refuse_other_networks(weights)
    names = {_WRAPPERS.sub("", name): name for name in weights}
    prefix = next((p for p in _UNET_PREFIXES if any(n.startswith(p) for n in names)), "")
    bare = {name[len(prefix) :]: original for name, original in names.items() if name.startswith(prefix)}
    unet = layout_of(_Shapes(weights, bare))
    name = _name(unet)
    canonical = _Shapes(weights, names)
    return Family(name, unet, tuple(_text(canonical, layout) for layout in _TEXT[name]))


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
    """Raise :class:`WrongFamily` if any key belongs to a network that is no Stable Diffusion U-Net."""
    for name in names:
        for pattern, network in _OTHERS:
            if pattern.search(name):
                raise WrongFamily(
                    f"This is for {network} (it has {name}), which Membrane does not handle. "
                    "It works with Stable Diffusion 1, 2 and XL."
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

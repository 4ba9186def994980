"""What a file is, by its keys and shapes; and, for known kinds that are not read, a sentence that names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from ..errors import UnknownFormat
from ..keys import refuse_other_networks
from .files import Header
from .parts import is_adapter

_STEM = re.compile(r"(?:module\.|_orig_mod\.)*(?:lora_(?:unet|te[12]?)|lycoris)_")
_WHOLE_MODEL = "Subtract the base model to get a LoRA (hosts call this 'extract LoRA'), or load it as the model itself."


def kind_of(header: Header) -> str:
    """``native``, ``kohya`` or ``peft``; raises :class:`UnknownFormat` naming any other kind of file."""
    keys = header.shapes.keys()
    if "membrane.format" in header.metadata:
        return "native"
    refuse_other_networks(keys)
    if any(_STEM.match(key) for key in keys) and is_adapter(keys):
        return "kohya"
    if is_adapter(keys):
        return "peft"
    for recognise, sentence in _REFUSED:
        if recognise(keys):
            raise UnknownFormat(f"{header.name} is {sentence}")
    first = next(iter(keys), None)
    raise UnknownFormat(
        f"{header.name} holds {len(keys)} tensors that Membrane does not know"
        + (f" (first: {first})" if first else "")
        + ". It reads its own files and LoRA files for Stable Diffusion 1, 2 and XL."
    )


def _any(pattern: str) -> Callable[[Collection[str]], bool]:
    search = re.compile(pattern).search
    return lambda keys: any(search(key) for key in keys)


def _embedding(keys: Collection[str]) -> bool:
    return bool(keys) and set(keys) <= {"emb_params", "clip_l", "clip_g"}


_BLOCK = r"^(?:module\.|_orig_mod\.)*(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\."
_REFUSED: tuple[tuple[Callable[[Collection[str]], bool], str], ...] = (
    (
        _any(r"^(?:ft_modules_list|orig_modules_list)\."),
        "an ESD wrapper file, which does not say which layer each tensor belongs to. Export it again as an ordinary "
        "U-Net or LoRA with the program that made it.",
    ),
    (
        _any(rf"{_BLOCK}.*attentions\.\d+\.(?:down|up)\.(?:weight|bias)$"),
        "a Receler eraser: a small network behind each attention layer, which cannot be a change of weights. "
        "Membrane does not run these.",
    ),
    (
        _any(r"^(?:controlnet_|control_model\.|.*controlnet_cond_embedding)"),
        "a ControlNet, not an erasure. Load it with your host's ControlNet loader.",
    ),
    (
        _any(r"^(?:module\.|_orig_mod\.)*(?:unet\.)?conv_in\.weight$"),
        f"a full U-Net (ESD, ANT, RACE, EAP and Co-Erasing publish these). {_WHOLE_MODEL}",
    ),
    (
        _any(rf"{_BLOCK}.*\.weight$"),
        "a set of whole new U-Net weights (partial ESD, or Concept Ablation, DoCo), not of differences. "
        + _WHOLE_MODEL,
    ),
    (
        _any(r"^(?:first_stage_model|cond_stage_model|conditioner)\."),
        f"a full checkpoint (ESD in the CompVis layout, or any other model). {_WHOLE_MODEL}",
    ),
    (
        _any(r"^(?:model\.)?diffusion_model\."),
        f"a set of whole new U-Net weights in the LDM layout (Concept Ablation or ESD). {_WHOLE_MODEL}",
    ),
    (
        _any(r"^(?:text_encoder\.)?(?:text_model|transformer\.resblocks|embeddings|encoder\.layers)\."),
        "a text encoder (AdvUnlearn publishes these). Load it as the text encoder in your host, in place of the "
        "checkpoint's own.",
    ),
    (
        _embedding,
        "a textual inversion embedding, not an erasure. Put it into your host's embeddings folder.",
    ),
    (
        _any(r"^(?:encoder|decoder)\.(?:conv_in|down|mid|up)"),
        "an autoencoder (VAE), not an erasure.",
    ),
)

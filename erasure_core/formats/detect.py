"""What a file is, by its keys and shapes; and, for known kinds that are not read, a sentence that names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from ..errors import UnknownFormat
from ..keys import refuse_other_networks
from .files import Header
from .parts import is_adapter

_STEM = re.compile(r"(?:module\.|_orig_mod\.)*(?:lora_(?:unet|transformer|te[123]?)|lycoris)_")
Kinds = tuple[tuple[Callable[[Collection[str]], bool], str], ...]


def kind_of(header: Header) -> str:
    """``native``, ``kohya``, ``peft`` or ``weights`` (whole new weights of a U-Net, no differences).

    Raises :class:`UnknownFormat` naming any other kind of file.
    """
    keys = header.shapes.keys()
    if "membrane.format" in header.metadata:
        return "native"
    refuse_other_networks(keys)
    if any(_STEM.match(key) for key in keys) and is_adapter(keys):
        return "kohya"
    if is_adapter(keys):
        return "peft"
    _refuse(header, _REFUSED_FIRST)
    if _whole_weights(keys):
        return "weights"
    _refuse(header, _REFUSED)
    first = next(iter(keys), None)
    raise UnknownFormat(
        f"{header.name} holds {len(keys)} tensors that Membrane does not know"
        + (f" (first: {first})" if first else "")
        + ". It reads its own files, LoRA files for Stable Diffusion 1, 2 and XL and for Flux, and edited U-Nets."
    )


def _refuse(header: Header, kinds: Kinds) -> None:
    for recognise, sentence in kinds:
        if recognise(header.shapes.keys()):
            raise UnknownFormat(f"{header.name} is {sentence}")


def _any(pattern: str) -> Callable[[Collection[str]], bool]:
    search = re.compile(pattern).search
    return lambda keys: any(search(key) for key in keys)


def _embedding(keys: Collection[str]) -> bool:
    return bool(keys) and set(keys) <= {"emb_params", "clip_l", "clip_g"}


_WRAPPED = r"^(?:module\.|_orig_mod\.)*"
_BLOCK = rf"{_WRAPPED}(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\."
_LDM_BLOCK = rf"{_WRAPPED}(?:(?:model\.)?diffusion_model\.)?(?:input_blocks|middle_block|output_blocks)\."
_whole_weights = _any(rf"(?:{_BLOCK}|{_LDM_BLOCK}).*\.weight$|{_WRAPPED}(?:unet\.)?conv_in\.weight$")
_REFUSED_FIRST: Kinds = (
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
        _any(r"^(?:first_stage_model|cond_stage_model|conditioner)\."),
        "a full checkpoint with text encoder and autoencoder (ESD in the CompVis layout, or any other model). Load it "
        "as the model itself, or subtract the base model to get a LoRA (hosts call this 'extract LoRA').",
    ),
)
_REFUSED: Kinds = (
    (
        _any(r"^(?:text_encoder\.)?(?:text_model|transformer\.resblocks|embeddings|encoder\.layers)\."),
        "a text encoder (AdvUnlearn publishes these). Load it as the text encoder in your host, in place of the "
        "checkpoint's own.",
    ),
    (
        _any(r"(?:^|\.)(?:double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.\d+\..*weight$"),
        "whole weights of a Flux model and no changes of them. Load it as the model itself, or subtract the base model "
        "to get a LoRA (hosts call this 'extract LoRA').",
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

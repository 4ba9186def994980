"""What a file is, by its keys, shapes and metadata: the first kind of the ladder whose test it passes.

A kind names the reader; kinds that are read in the same way differ in what the user is told and in how they are gated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import UnknownFormat
from ..keys import refuse_other_networks
from .files import Header
from .parts import is_adapter, plain_key, split_key

TRIO = {"prompts", "rank", "alpha"}
FULL_ROWS = {"rows": "full"}
"""Gate of what acts through the unconditional branch, too: the negative row gets all of it whenever it is open."""


@dataclass(frozen=True)
class Kind:
    """``name`` as ``recipe["format"]`` says it, the ``reader`` that is used, and a ``title`` for people."""

    name: str
    reader: str
    title: str


NATIVE = Kind("native", "native", "Membrane")
SPM = Kind("spm", "kohya", "SPM membrane (a LoRA with kohya names)")
SPM_STRIPPED = Kind("spm-stripped", "kohya", "probably an SPM membrane that does not say its concept (kohya names)")
ACE = Kind("ace", "kohya", "ACE (a LoRA with kohya names)")
SLIDER = Kind("slider", "kohya", "Concept Slider (a LoRA with kohya names)")
FLUX_SLIDER = Kind("flux-slider", "kohya", "Concept Slider for Flux")
DIFF = Kind("diff", "peft", "full differences of weights (ComfyUI or LyCORIS)")
SET_WEIGHT = Kind("set-weight", "weights", "whole new weights as ComfyUI's set_weight, no differences")
KOHYA = Kind("kohya", "kohya", "LoRA with kohya names")
ERASE_ANYTHING = Kind("erase-anything", "peft", "EraseAnything, a LoRA for Flux")
ATTN_PROCS = Kind("attn-procs", "peft", "LoRA of attention processors (MACE and old diffusers)")
PEFT = Kind("peft", "peft", "LoRA with PEFT or diffusers names")
WRAPPER = Kind("esd-wrapper", "wrapper", "ESD's wrapper file: trained and original layers without names")
RECELER = Kind("receler", "receler", "Receler: a small network behind each cross-attention")
PIPELINE = Kind("pipeline", "weights", "folder of a whole pipeline (MACE, SDD, TRCE and others publish these)")
CHECKPOINT = Kind("checkpoint", "weights", "full checkpoint (ESD of the first code and others), no differences")
CA_DELTA = Kind("ca-delta", "weights", "new weights by part (Ablating Concepts, DoCo: delta.bin), no differences")
CA_CKPT = Kind("ca-ckpt", "weights", "new weights by checkpoint names (Ablating Concepts: delta.ckpt), no differences")
UNET = Kind("unet", "weights", "whole U-Net (ESD, ANT, RACE, UCE and others publish these), no differences")
PARTIAL = Kind(
    "partial-unet", "weights", "whole new weights of part of a U-Net (ESD, UCE, RECE, SPEED and others), no differences"
)
TEXT_ENCODER = Kind("text-encoder", "weights", "text encoder (AdvUnlearn and others), no differences")


class _Facts:
    """What the tests look at, found once for a file."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.keys = [plain_key(key) for key in header.shapes]

    @cached_property
    def adapter(self) -> bool:
        return is_adapter(self.keys)

    @cached_property
    def kohya(self) -> bool:
        return self.adapter and self.any(r"^(?:lora_(?:unet|transformer|te[123]?)|lycoris)_")

    @cached_property
    def trio(self) -> bool:
        return self.kohya and self.header.metadata.keys() >= TRIO

    @cached_property
    def parts(self) -> set[str]:
        found = (split_key(key) for key in self.keys)
        return {split[1] for split in found if split is not None}

    @cached_property
    def ranks(self) -> set[int]:
        """First dimension of every module's down part."""
        shapes = zip(self.keys, self.header.shapes.values(), strict=True)
        downs = ((split_key(key), shape) for key, shape in shapes)
        return {shape[0] for split, shape in downs if split is not None and split[1] == "down" and shape}

    @cached_property
    def untitled(self) -> bool:
        """Neither concepts nor the settings of kohya's trainer in the metadata."""
        return not self.trio and not any(key.startswith("ss_") for key in self.header.metadata)

    def any(self, pattern: str) -> bool:
        search = re.compile(pattern).search
        return any(search(key) for key in self.keys)

    def all(self, pattern: str) -> bool:
        search = re.compile(pattern).search
        return bool(self.keys) and all(search(key) for key in self.keys)


_FLUX_STEM = r"^lora_unet_(?:single_)?transformer_blocks_\d+_attn_"
_ERASE_ANYTHING = r"^(?:transformer\.)?transformer_blocks\.\d+\.attn\.add_[qk]_proj\.lora_[AB]\.weight$"
_PROCESSOR = r"\.attn[12]\.processor\.to_(?:q|k|v|out)_lora\.(?:down|up)\.weight$"
_WRAPPED = r"^(?:ft_modules_list|orig_modules_list)\."
_ERASER = r"^(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\..*attentions\.\d+\.(?:down|up)\.(?:weight|bias)$"
_LDM = r"^(?:model\.)?diffusion_model\."
_BLOCK = (
    rf"(?:^(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\.|(?:^|{_LDM})(?:input_blocks|middle_block|output_blocks)\.)"
)
_WHOLE = rf"{_BLOCK}.*\.weight$|^(?:unet\.)?conv_in\.weight$"
_INNER = r"^(?:unet\.)?conv_norm_out\.weight$|^(?:(?:model\.)?diffusion_model\.)?out\.0\.weight$"
_FIRST = r"^(?:unet\.)?conv_in\.weight$|^(?:(?:model\.)?diffusion_model\.)?input_blocks\.0\.0\.weight$"
_TEXT = r"^(?:text_encoder(?:_2)?\.)?(?:text_model|transformer\.resblocks|embeddings|encoder\.layers)\."


def _ca_delta(f: _Facts) -> bool:
    tables = f.header.mapped is not None and f.all(r"^(?:unet|text_encoder(?:_2)?|modifier_token)\b")
    return tables and f.any(_WHOLE) and not f.any(_FIRST)


def _spm_stripped(f: _Facts) -> bool:
    return f.kohya and f.ranks == {1} and f.untitled and f.all(r"^lora_unet_.*_attentions_")


def _slider(f: _Facts) -> bool:
    shape = f.kohya and not f.trio and max(f.ranks, default=0) == 4
    return shape and f.any(r"_resnets_") and not f.any(r"_attn2_|^lora_te")


_LADDER: Sequence[tuple[Kind, Callable[[_Facts], bool]]] = (
    (NATIVE, lambda f: "membrane.format" in f.header.metadata),
    (PIPELINE, lambda f: f.header.folder),
    (SPM, lambda f: f.trio and f.ranks <= {1}),
    (ACE, lambda f: f.trio),
    (FLUX_SLIDER, lambda f: f.kohya and f.any(_FLUX_STEM)),
    (SLIDER, _slider),
    (SPM_STRIPPED, _spm_stripped),
    (SET_WEIGHT, lambda f: f.adapter and f.parts == {"set"}),
    (DIFF, lambda f: f.adapter and f.parts <= {"diff", "bias"}),
    (KOHYA, lambda f: f.kohya),
    (ERASE_ANYTHING, lambda f: f.all(_ERASE_ANYTHING)),
    (ATTN_PROCS, lambda f: f.adapter and f.any(_PROCESSOR)),
    (PEFT, lambda f: f.adapter),
    (WRAPPER, lambda f: f.any(_WRAPPED)),
    (RECELER, lambda f: f.all(_ERASER)),
    (CHECKPOINT, lambda f: f.any(r"^(?:first_stage_model|cond_stage_model|conditioner)\.") and f.any(_LDM)),
    (CA_DELTA, _ca_delta),
    (CA_CKPT, lambda f: f.header.mapped is not None and f.all(rf"{_LDM}|^embed\b") and not f.any(_FIRST)),
    (UNET, lambda f: f.any(_FIRST) and f.any(_INNER) and f.any(_WHOLE)),
    (PARTIAL, lambda f: f.any(_WHOLE)),
    (TEXT_ENCODER, lambda f: f.any(_TEXT)),
)
_REFUSED: Sequence[tuple[Callable[[_Facts], bool], str]] = (
    (
        lambda f: f.any(r"^(?:controlnet_|control_model\.|.*controlnet_cond_embedding)"),
        "a ControlNet, not an erasure. Load it with your host's ControlNet loader.",
    ),
    (
        lambda f: bool(f.keys) and set(f.keys) <= {"emb_params", "clip_l", "clip_g"},
        "a textual inversion embedding, not an erasure. Put it into your host's embeddings folder.",
    ),
    (lambda f: f.any(r"^(?:encoder|decoder)\.(?:conv_in|down|mid|up)"), "an autoencoder (VAE), not an erasure."),
)


_FLUX = r"(?:^|\.)(?:double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.\d+\..*weight$"


def kind_of(header: Header) -> Kind:
    """The kind of a file.

    Raises :class:`UnknownFormat`, by name for known kinds of file that are no erasure, :class:`WrongFamily` for another
    kind of network.
    """
    facts = _Facts(header)
    for recognise, sentence in _REFUSED:
        if recognise(facts):
            raise UnknownFormat(f"{header.name} is {sentence}")
    for kind, test in _LADDER:
        if test(facts):
            return kind
    refuse_other_networks(header.shapes)
    if facts.any(_FLUX):
        raise UnknownFormat(
            f"{header.name} is whole weights of a Flux model and no changes of them. Load it as the model itself, or "
            "subtract the base model to get a LoRA (hosts call this 'extract LoRA')."
        )
    first = next(iter(header.shapes), None)
    raise UnknownFormat(
        f"{header.name} holds {len(header.shapes)} tensors that Membrane does not know"
        + (f" (first: {first})" if first else "")
        + ". It reads its own files, LoRA files, and edited U-Nets and text encoders."
    )

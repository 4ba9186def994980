"""Names inside LoRA files: kohya stems (``lora_unet_down_blocks_0_...``) and dotted PEFT / diffusers module names.

A stem has lost its dots, so it is never split: it is looked up in a table made from the names of the model's weights.
Only names of the diffusers kind can also be read with no model known, since the vocabulary of their parts is closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from .families import CHECKPOINT_PREFIX, HOST_PREFIX, Family
from .text import Slot

_INNER = (
    *("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut", "conv"),
    *("norm", "proj_in", "proj_out", "norm3", "ff.net.0.proj", "ff.net.2"),
    *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    *("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
)
_LEAVES = {leaf.replace(".", "_"): leaf for leaf in _INNER}
_LEAF = "|".join(sorted(_LEAVES, key=len, reverse=True))
_UNET_STEM = re.compile(
    rf"lora_unet_(?:(down|up)_blocks_(\d+)|(mid)_block)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_"
    rf"(?:transformer_blocks_(\d+)_)?({_LEAF})"
)
_UNET_TOP = {
    f"lora_unet_{name.replace('.', '_')}": f"unet.{name}.weight"
    for name in (
        *("conv_in", "conv_norm_out", "conv_out"),
        *("time_embedding.linear_1", "time_embedding.linear_2", "add_embedding.linear_1", "add_embedding.linear_2"),
    )
}
# labels of SDXL: ComfyUI and kohya know these two by their LDM names
_LABEL = {
    "unet.add_embedding.linear_1.weight": "lora_unet_label_emb_0_0",
    "unet.add_embedding.linear_2.weight": "lora_unet_label_emb_0_2",
}
_LABEL_BACK = {stem: name for name, stem in _LABEL.items()}
_TEXT_STEM = re.compile(rf"lora_te([12]?)_text_model_encoder_layers_(\d+)_({_LEAF})")
_TEXT_TOP = re.compile(
    r"lora_te([12]?)_(?:(text_model)_(?:(embeddings)_)?(token_embedding|position_embedding|final_layer_norm)|text_projection)"
)
_FLUX_INNER = (
    *("norm.linear", "norm1.linear", "norm1_context.linear", "proj_mlp", "proj_out"),
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.norm_q", "attn.norm_k"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("attn.norm_added_q", "attn.norm_added_k"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)
_FLUX_LEAVES = {leaf.replace(".", "_"): leaf for leaf in _FLUX_INNER}
_FLUX_STEM = re.compile(rf"lora_transformer_((?:single_)?transformer_blocks)_(\d+)_({'|'.join(_FLUX_LEAVES)})")
_FLUX_TOP = {
    f"lora_transformer_{name.replace('.', '_')}": f"transformer.{name}.weight"
    for name in (
        *("x_embedder", "context_embedder", "norm_out.linear", "proj_out"),
        *(f"time_text_embed.{part}_embedder.linear_{n}" for part in ("timestep", "guidance", "text") for n in (1, 2)),
    )
}
_DOTTED_ROOTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
_NOISE = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+")


def kohya_stem(name: str, family: str) -> str:
    """Stem under which every host knows the weight ``name`` (canonical, ``.weight`` or ``.bias``) of ``family``."""
    weight = re.sub(r"\.(?:weight|bias)$", ".weight", name)
    if weight in _LABEL:
        return _LABEL[weight]
    root, _, module = weight.removesuffix(".weight").partition(".")
    return f"{_roots(family)[root]}_{module.replace('.', '_')}"


def name_of_stem(stem: str) -> str | None:
    """Canonical weight name of a stem of the diffusers kind, with no model known; None for any other stem."""
    top = _UNET_TOP.get(stem) or _LABEL_BACK.get(stem) or _FLUX_TOP.get(stem)
    if top:
        return top
    match = _FLUX_STEM.fullmatch(stem)
    if match:
        blocks, index, leaf = match.groups()
        return f"transformer.{blocks}.{index}.{_FLUX_LEAVES[leaf]}.weight"
    match = _UNET_STEM.fullmatch(stem)
    if match:
        side, b, mid, kind, a, t, leaf = match.groups()
        block = f"{side}_blocks.{b}" if side else f"{mid}_block"
        inside = f"transformer_blocks.{t}." if t else ""
        return f"unet.{block}.{kind}.{a}.{inside}{_LEAVES[leaf]}.weight"
    match = _TEXT_STEM.fullmatch(stem)
    if match:
        which, layer, leaf = match.groups()
        return f"{_encoder(which)}.text_model.encoder.layers.{layer}.{_LEAVES[leaf]}.weight"
    match = _TEXT_TOP.fullmatch(stem)
    if match:
        which, model, embeddings, leaf = match.groups()
        middle = ".".join(part for part in (model, embeddings, leaf or "text_projection") if part)
        return f"{_encoder(which)}.{middle}.weight"
    return None


def _encoder(which: str) -> str:
    return "text_encoder_2" if which == "2" else "text_encoder"


def _roots(family: str) -> Mapping[str, str]:
    text = "lora_te1" if family in ("sdxl", "flux") else "lora_te"
    return {
        "unet": "lora_unet",
        "transformer": "lora_transformer",
        "text_encoder": text,
        "text_encoder_2": "lora_te2",
    }


@lru_cache(maxsize=16)
def stem_table(family: Family) -> Mapping[str, str]:
    """Every stem in use for ``family``, by names of diffusers and of the model's authors -> canonical weight name.

    What the authors stack is in :func:`stacked_table`. Trainers of Flux write its diffusers names after
    ``lora_transformer_``, ``lycoris_``, or, as Concept Sliders do (arXiv 2311.12092), after ``lora_unet_``.
    """
    heads = dict.fromkeys((_roots(family.name)[family.root], "lora_unet", "lycoris"))
    result: dict[str, str] = {}
    for ours, slot in family.denoiser_slots().items():
        if ours.endswith(".weight"):
            for name in (ours,) if slot.start is not None else (slot.key, ours):
                result |= {f"{head}_{_underscored(name)}": f"{family.root}.{ours}" for head in heads}
    for text in family.text:
        text_heads = ("lora_te2",) if text.root == "text_encoder_2" else ("lora_te1", "lora_te")
        for name in text.shapes():
            if name.endswith(".weight"):
                result |= {f"{head}_{_underscored(name)}": f"{text.root}.{name}" for head in text_heads}
    return result


@lru_cache(maxsize=16)
def module_table(family: Family) -> Mapping[str, str]:
    """Dotted module name -> canonical weight name, for names made plain by :func:`plain_module`."""
    result: dict[str, str] = {}
    for ours, slot in family.denoiser_slots().items():
        if ours.endswith(".weight"):
            module = ours.removesuffix(".weight")
            theirs = _dotted(slot) if slot.start is None else ()
            result |= dict.fromkeys((module, f"{family.root}.{module}", *theirs), f"{family.root}.{ours}")
    for text in family.text:
        for name in text.shapes():
            if name.endswith(".weight"):
                module = name.removesuffix(".weight")
                for form in (module, module.removeprefix("text_model.")):
                    result[f"{text.root}.{form}"] = f"{text.root}.{name}"
    return result


@lru_cache(maxsize=16)
def stacked_table(family: Family) -> Mapping[str, Mapping[str, Slot]]:
    """Stem or dotted name of a matrix that the authors stack from several -> the canonical weights in it, in order.

    ``linear1_qkv`` are the rows of ``linear1`` without the perceptron's.
    """
    result: dict[str, dict[str, Slot]] = {}
    for ours, slot in family.denoiser_slots().items():
        if slot.start is not None and ours.endswith(".weight"):
            for name in (*_dotted(slot), f"lora_unet_{_underscored(slot.key)}", f"lycoris_{_underscored(slot.key)}"):
                result.setdefault(name, {})[f"{family.root}.{ours}"] = slot
                if name.endswith("linear1") and not ours.endswith("proj_mlp.weight"):
                    result.setdefault(f"{name}_qkv", {})[f"{family.root}.{ours}"] = slot
    return result


def _dotted(slot: Slot) -> tuple[str, ...]:
    """Names of a module of the authors as files and hosts write them."""
    module = slot.key.removesuffix(".weight")
    return module, HOST_PREFIX + module, CHECKPOINT_PREFIX + module


def _underscored(name: str) -> str:
    return name.removesuffix(".weight").replace(".", "_")


def plain_module(module: str) -> str:
    """A dotted module name without wrappers: ``unet.base_model.model.x.processor.to_out`` -> ``unet.x.to_out.0``.

    Attention names load with and without ``.processor.``, whichever release of diffusers wrote them.
    """
    root, _, rest = module.partition(".")
    module = f"{root}.{_NOISE.sub('', rest)}" if root in _DOTTED_ROOTS else _NOISE.sub("", module)
    module = module.replace(".processor.", ".")
    return re.sub(r"\.to_out$", ".to_out.0", module)

"""LoRA export: every part of an erasure as a plain LoRA that any host loads without us.

A map becomes ``up = W D, down = Y`` in each cross-attention key and value matrix: exact, no singular value
decomposition, because ``W (I + D Y) = W + (W D) Y``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..erasure import Erasure, WeightDelta
from ..errors import BadInput
from .metadata import describe_erasure, family_name, legacy_trio, web_ui
from .native import stem_of

_UNSEEN = re.compile(r"transformer\..*\.(?:to_[qkv]|add_[qkv]_proj|proj_mlp)\.bias|transformer\.norm_out\.linear\.bias")
DTYPES = (torch.float32, torch.float16)


def lora_tensors(
    erasure: Erasure, weights: Mapping[str, Tensor] | None, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the LoRA file; ``weights`` (canonical names) are needed if the erasure has maps."""
    if dtype not in DTYPES:
        raise BadInput(f"A LoRA is saved in float32 or float16, not {dtype}.")
    if erasure.bottlenecks:
        raise BadInput(
            "This erasure has small networks behind the attention (Receler), which no LoRA can hold. Save it in the "
            "native form."
        )
    if erasure.maps and weights is None:
        raise BadInput(
            "A LoRA holds changes of one model's weights, so saving this erasure as one needs that model. "
            "Give its weights, or save in the native form, which fits every model with the same text encoder."
        )
    deltas = erasure.deltas(weights if weights is not None else {})
    family = family_name(erasure)
    tensors: dict[str, Tensor] = {}
    for delta in deltas.values():
        tensors |= _entries(delta, family, dtype)
    rank = max((delta.rank or 0 for delta in deltas.values()), default=0)
    metadata = describe_erasure(erasure) | legacy_trio(erasure) | web_ui(erasure, rank)
    if "alpha" in metadata:
        metadata["alpha"] = str(float(rank))  # scales are folded into the tensors here
    metadata["modelspec.architecture"] = metadata["modelspec.architecture"].split("/")[0] + "/lora"
    return tensors, metadata


def _entries(delta: WeightDelta, family: str, dtype: torch.dtype) -> dict[str, Tensor]:
    stem = stem_of(delta.name, family)
    if _UNSEEN.fullmatch(delta.name):
        raise BadInput(
            f"Hosts leave out changes of {delta.name} in a LoRA, because their model stacks this bias with others. "
            "Save the erasure in the native form."
        )
    if delta.diff is not None:
        kind = "diff_b" if delta.name.endswith(".bias") else "diff"
        return {f"{stem}.{kind}": (delta.diff.float() * delta.scale).to(dtype)}
    assert delta.down is not None and delta.up is not None
    down, up = _balanced(delta.down.float(), delta.up.float() * delta.scale)
    if not len(down):
        return {}
    alpha = torch.tensor(float(len(down)), dtype=dtype)  # alpha = rank: hosts scale by alpha / rank = 1
    return {
        f"{stem}.lora_down.weight": down.to(dtype),
        f"{stem}.lora_up.weight": up.to(dtype),
        f"{stem}.alpha": alpha,
    }


def _balanced(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with each rank-one term's two factors of like size, moved by a power of two: exact in fp32.

    Solvers give tiny ``down`` and large ``up``, which would fall out of the range of fp16.
    """
    small, large = down.flatten(1).abs().amax(1), up.flatten(2).abs().amax((0, 2)) if up.ndim > 2 else up.abs().amax(0)
    live = (small > 0) & (large > 0)
    ratio = torch.where(live, large, torch.ones_like(large)) / torch.where(live, small, torch.ones_like(small))
    step = torch.exp2(torch.round(torch.log2(ratio) / 2))
    step_down, step_up = step.reshape(-1, *[1] * (down.ndim - 1)), step.reshape(1, -1, *[1] * (up.ndim - 2))
    return down * step_down, up / step_up

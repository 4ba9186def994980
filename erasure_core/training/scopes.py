"""Which layers an adapter is put on, by the names that papers and their code give to such choices.

SPM (arXiv 2312.16145) and ACE (2501.01633) adapt every linear layer and convolution inside a transformer (``xformer``);
ESD (2303.07345) cross-attention, everything else, or all; Concept Sliders (2311.12092) self-attention and all ResNets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import NothingMatched
from ..keys.layout import Shape

_PATTERNS: Mapping[str, tuple[str, str]] = {
    "xformer": ("every layer inside the transformers (SPM, ACE)", r"\.attentions\."),
    "xattn": ("cross-attention (ESD-x)", r"\.attn2\."),
    "xattn-kv": ("its keys and values (ESD-x-strict, MACE)", r"\.attn2\.to_[kv]$"),
    "selfattn": ("self-attention", r"\.attn1\."),
    "attention": ("both attentions (lierla)", r"\.attn[12]\."),
    "noxattn": (
        "all but cross-attention, time embedding and output (ESD-u)",
        r"^unet\.(?!conv_out|time_embedding|add_embedding)(?!.*\.attn2\.)",
    ),
    "slider": (
        "self-attention and ResNets (Sliders' c3lier with noxattn)",
        r"\.attn1\.|\.resnets\.|\.downsamplers\.|\.upsamplers\.",
    ),
    "c3lier": (
        "both attentions and ResNets (LECO's c3lier, Sliders' with full, ANT)",
        r"\.attn[12]\.|\.resnets\.|\.downsamplers\.|\.upsamplers\.",
    ),
    "notime": ("all but time embedding and output", r"^unet\.(?!conv_out|time_embedding|add_embedding)"),
    "full": ("every layer", r"^unet\."),
    "xlayer": ("cross-attention of two upper blocks", r"^unet\.up_blocks\.2\.attentions\.[02]\..*\.attn2\."),
    "selflayer": ("self-attention of two lower blocks", r"^unet\.down_blocks\.[12]\.attentions\.0\..*\.attn1\."),
}
SCOPES = tuple(_PATTERNS)


def layers_in(shapes: Mapping[str, Shape], scope: str) -> tuple[str, ...]:
    """Canonical names, without ``.weight``, of the denoiser's linear layers and convolutions in a scope, in order.

    ``shapes``: of every weight by canonical name. Raises NothingMatched where the model has none of them.
    """
    chosen = re.compile(_PATTERNS[scope][1])
    found = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.startswith("unet.") and name.endswith(".weight") and len(shape) in (2, 4)
    ]
    layers = tuple(layer for layer in found if chosen.search(layer))
    if not layers:
        raise NothingMatched(f"This model has no layer in the scope '{scope}'. Choose another of {', '.join(SCOPES)}.")
    return layers


def explain_scopes() -> str:
    """One line per scope."""
    return "; ".join(f"{name}: {what}" for name, (what, _) in _PATTERNS.items())


_TEXT_PARTS: Mapping[str, tuple[str, str]] = {
    "mlp-last": ("every MLP and the self-attention of the last layer (few-shot erasing)", r"mlp\."),
    "mlp": ("every MLP", r"mlp\."),
    "attention": ("every self-attention", r"self_attn\."),
    "all": ("both", r""),
}
TEXT_SCOPES = tuple(_TEXT_PARTS)
_TEXT = re.compile(r"^(text_encoder(?:_2)?)\.text_model\.encoder\.layers\.(\d+)\.((?:mlp|self_attn)\.\w+)\.weight$")


def text_layers_in(shapes: Mapping[str, Shape], scope: str, clip_skip: int = 1) -> tuple[str, ...]:
    """Canonical names, without ``.weight``, of the linear layers of the text encoders in a scope, in order.

    ``clip_skip``: which layer the rows come from, 1 = the last; only a second encoder's pooled vector needs those
    behind it. Raises NothingMatched where the model has none.
    """
    found = [match for name in shapes if (match := _TEXT.match(name))]
    if not found:
        raise NothingMatched("This model has no CLIP text encoder whose layers could be trained.")
    last: dict[str, int] = {}
    for match in found:
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    used = {root: number if root == "text_encoder_2" else number + 1 - clip_skip for root, number in last.items()}
    chosen = re.compile(_TEXT_PARTS[scope][1])
    return tuple(
        match[0].removesuffix(".weight")
        for match in found
        if int(match[2]) <= used[match[1]]
        and (chosen.match(match[3]) or (scope == "mlp-last" and int(match[2]) == used[match[1]]))
    )


def explain_text_scopes() -> str:
    """One line per scope of the text encoders."""
    return "; ".join(f"{name}: {what}" for name, (what, _) in _TEXT_PARTS.items())

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
    "attention": ("both attentions (Sliders' lierla)", r"\.attn[12]\."),
    "noxattn": (
        "all but cross-attention, time embedding and output (ESD-u)",
        r"^unet\.(?!conv_out|time_embedding|add_embedding)(?!.*\.attn2\.)",
    ),
    "slider": (
        "self-attention and ResNets (Sliders' c3lier with noxattn)",
        r"\.attn1\.|\.resnets\.|\.downsamplers\.|\.upsamplers\.",
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

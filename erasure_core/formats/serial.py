"""Safetensors bytes that depend on nothing but the content.

The safetensors library writes metadata in an order that changes from run to run; here the same erasure always gives
the same bytes, so that files can be compared and found by hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import IllConditioned

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def write_safetensors(stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write floating-point ``tensors`` and text ``metadata``; raises :class:`IllConditioned` for NaN or infinity."""
    # wide types first keeps every tensor aligned to its own size
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in names:
        tensor = tensors[name]
        if not torch.isfinite(tensor).all():
            raise IllConditioned(
                f"{name} holds NaN or infinite numbers, so nothing was saved. If you asked for fp16, the values may "
                "be too large for it: save in fp32."
            )
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        stream.write(flat.view(torch.uint8).numpy().tobytes())

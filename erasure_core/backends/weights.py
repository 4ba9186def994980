"""Reading a pipeline's weights: canonical names, float32 copies, a cheap hash, and text encoder layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, IllConditioned

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PipelineWeights(Mapping[str, Tensor]):
    """Canonical name -> float32 copy on the processor of the weight as it was before any of our patches."""

    def __init__(self, pipe: Any) -> None:
        self._parameters: dict[str, nn.Parameter] = {}
        for root in ("unet", "text_encoder", "text_encoder_2"):
            module = getattr(pipe, root, None)
            if module is None:
                continue
            for name, parameter in module.named_parameters():
                self._parameters[canonical(root, name)] = parameter
        self.originals: dict[str, Tensor] = {}  # what a patch took out, by canonical name

    def parameter(self, name: str) -> nn.Parameter:
        """The live parameter itself."""
        return self._parameters[name]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight, without reading any."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def __getitem__(self, name: str) -> Tensor:
        data = self.originals.get(name, self._parameters[name].data)
        if not data.is_floating_point():
            raise BadInput(
                f"The weight {name} is quantised ({data.dtype}) and cannot be read as numbers. "
                "Apply the erasure to the text (act_on='text') or load the model unquantised."
            )
        copy = data.detach().to("cpu", torch.float32, copy=True)
        if not torch.isfinite(copy).all():
            raise IllConditioned(f"The model's weight {name} holds NaN or infinite values. Load an intact checkpoint.")
        return copy

    def __contains__(self, name: object) -> bool:
        return name in self._parameters  # Mapping's own test would copy the weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def canonical(root: str, name: str) -> str:
    """Canonical weight name; transformers 5 dropped the ``text_model.`` level, which the name keeps."""
    if root.startswith("text_encoder") and not name.startswith(("text_model.", "text_projection")):
        name = "text_model." + name
    return f"{root}.{name}"


def fingerprint(*modules: nn.Module) -> str:
    """Sixteen hex digits over names, shapes and contents of all parameters: equal weights, equal digits.

    Bit patterns are added up as wrapping integers along rows and along columns: exact whatever the order of adding, so
    the digits depend neither on threads nor on the device. One changed number always shows; exchanged rows do, too.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, parameter in module.named_parameters():
            data = parameter.detach()
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            if data.numel() == 0:
                continue
            bits = data.contiguous().view(_INTEGERS[data.element_size()]).reshape(len(data) if data.dim() else 1, -1)
            for axis in (0, 1):
                digest.update(bits.sum(axis, dtype=bits.dtype).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def hidden_rows(module: Any, ids: Tensor, clip_skip: int, normed: bool) -> tuple[Tensor, Tensor | None]:
    """Rows [B, 77, d] of layer ``-clip_skip``, with the final norm if ``normed``, and the projected vector [B, p].

    Float32 on the processor; gradients go through where the caller has them on.
    """
    out = module(ids.to(module.device), output_hidden_states=True)
    layers = out.hidden_states
    if not 1 <= clip_skip < len(layers):
        raise BadInput(f"clip_skip {clip_skip} is out of range: this text encoder has {len(layers) - 1} layers.")
    rows = layers[-clip_skip]
    if normed:
        rows = getattr(module, "text_model", module).final_layer_norm(rows)
    pooled = getattr(out, "text_embeds", None)
    return rows.float().cpu(), None if pooled is None else pooled.float().cpu()

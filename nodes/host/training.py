"""The host's denoisers and text encoders, open for training."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...erasure_core.keys.text import Slot

SCALE = 8  # pixels of a picture per number of a latent, in each direction
_ROWS = 4  # of a batch in training, for which room is asked
_KEPT = 3  # times what sampling needs, for the way back


def steady(model: Any) -> Any:
    """A MODEL or CLIP whose weights stay in place between the two ways through the network.

    Newer hosts may move weights as they please while a network runs; those make one that stays from the file.
    """
    extra = {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(model.clone).parameters else {}
    return model.clone(**extra) if extra else model


def load(patcher: Any, shape: tuple[int, ...] | None = None) -> None:
    """Weights on the device with all patches, as a sampler has them; ``shape``: of one latent [c, h, w]."""
    import comfy.model_management as management

    room = 0 if shape is None else _KEPT * patcher.memory_required([_ROWS, *shape])
    with torch.inference_mode():  # as in any other node: only what the host makes then can it change later
        management.load_models_gpu([patcher], memory_required=room)


def is_away(patcher: Any) -> bool:
    """Whether the host has moved the weights out to make room."""
    away: bool = patcher.current_loaded_device() != patcher.load_device
    return away


def device_of(patcher: Any) -> torch.device:
    """Where it computes."""
    device: torch.device = patcher.load_device
    return device


def dtype_of(model: Any) -> torch.dtype:
    """What the denoiser of a MODEL computes in, which may not be how its weights are stored."""
    network = model.model
    dtype: torch.dtype = network.get_dtype() if network.manual_cast_dtype is None else network.manual_cast_dtype
    return dtype


def latent_channels(model: Any) -> int:
    """Of the latents that the autoencoder makes."""
    channels: int = model.model.latent_format.latent_channels
    return channels


def levels(model: Any) -> Tensor:
    """Noise level of every training timestep, ascending."""
    sigmas: Tensor = model.get_model_object("model_sampling").sigmas
    return sigmas.detach().float().cpu().clone()


def prediction_of(model: Any) -> str | None:
    """``eps`` or ``v`` where timesteps are whole numbers with a noise level each; else None."""
    import comfy.model_sampling as kinds

    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, kinds.ModelSamplingDiscrete):
        return None
    denoised = type(sampling).calculate_denoised
    known = {"v": kinds.V_PREDICTION.calculate_denoised, "eps": kinds.EPS.calculate_denoised}
    return next((name for name, function in known.items() if function is denoised), None)


def heads_of(denoiser: nn.Module, slot: Slot) -> int:
    """Number of heads of the attention that a weight belongs to."""
    path = slot.key.removeprefix("diffusion_model.").rpartition(".to_")[0]
    heads: int = denoiser.get_submodule(path).heads  # type: ignore[assignment]
    return heads


def ask(model: Any, x: Tensor, t: Tensor, rows: Tensor, pooled: Tensor | None) -> Tensor:
    """The network's raw answer [B, c, h, w]: scaled input, training timesteps [B], texts, and SDXL's label of them."""
    label = None
    if model.model.adm_channels:
        height, width = x.shape[-2] * SCALE, x.shape[-1] * SCALE
        label = model.model.encode_adm(pooled_output=pooled, height=height, width=width, device=x.device).to(x)
    options = {"optimized_attention_override": _attention}
    answer: Tensor = model.model.diffusion_model(x, t.float(), context=rows, y=label, transformer_options=options)
    return answer


def _attention(usual: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Of torch: the faster ways that the host may choose do not all know the way back."""
    import comfy.ldm.modules.attention as attention

    answer: Tensor = attention.attention_pytorch(*args, **kwargs)
    return answer


@contextlib.contextmanager
def unpacked(network: nn.Module) -> Iterator[None]:
    """In the block, layers with weights in a packed form compute with ordinary copies, made anew in each call."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and _is_packed(weight) and hasattr(module, "weight_function"):
                before.append((module, vars(module).get("weight_function")))
                module.weight_function = [*module.weight_function, _as_it_is]
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.weight_function
            else:
                module.weight_function = own


def _is_packed(weight: Tensor) -> bool:
    return type(weight.data) is not Tensor


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


@contextlib.contextmanager
def apart(network: nn.Module) -> Iterator[None]:
    """In the block, a text encoder's layers add to their inputs without changing what their norms have kept."""
    handles = [
        module.register_forward_pre_hook(_with_a_copy)
        for module in network.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_a_copy(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return (args[0].clone(), *args[1:]) if args[0].requires_grad else None

"""Weights, patches and modules of a MODEL or CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module

from .marks import KEY


def clone(model: Any) -> Any:
    """A MODEL that shares the weights of the given one and can be changed without changing it."""
    return model.clone()


def text_patcher(clip: Any) -> Any:
    """What holds the weights and changes of a CLIP, as a MODEL is for the denoiser."""
    return clip.patcher


def shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Host name -> shape of every weight of a MODEL's or CLIP's patcher."""
    return {name: tuple(tensor.shape) for name, tensor in patcher.model_state_dict().items()}


def key_patches(patcher: Any) -> Mapping[str, Sequence[Any]]:
    """Host name -> [(weight before all patches, function that dequantises it), *patches in order]."""
    state = patcher.model_state_dict()
    own = {name: tensor for name, tensor in state.items() if _is_attribute(patcher.model, name)}
    if len(own) < len(state):  # of quantised layers the host lists scales that its own reading then stumbles over
        patcher = patcher.clone()
        patcher.model_state_dict = lambda filter_prefix=None: own
    found: Mapping[str, Sequence[Any]] = patcher.get_key_patches()
    return found


def _is_attribute(root: Module, name: str) -> bool:
    layer, _, last = name.rpartition(".")
    return hasattr(root.get_submodule(layer), last)


def weight_with(weight: Tensor, patches: Sequence[Any], key: str) -> Tensor:
    """``weight`` (float32, may be overwritten) with the patches of other nodes in force."""
    import comfy.lora

    result: Tensor = comfy.lora.calculate_weight(list(patches), weight, key) if patches else weight
    return result


def is_ours(patch: Sequence[Any]) -> bool:
    """Whether a patch was made by :func:`add_low_rank`."""
    marks = getattr(patch[1], "loaded_keys", ())
    return bool(marks) and all(str(mark).startswith(f"{KEY}.") for mark in marks)


Part = str | tuple[str, tuple[int, int, int]]  # a weight by host name, or (dimension, start, length) of one


def place(name: str, start: int | None, length: int | None) -> Part:
    """A whole weight, or ``length`` rows of one from ``start``, as patches name it."""
    return name if start is None or length is None else (name, (0, start, length))


def add_low_rank(patcher: Any, factors: Mapping[Part, tuple[Tensor, Tensor]]) -> set[Part]:
    """Add ``up @ down`` to weights; returns the places that exist."""
    from comfy.weight_adapter import LoRAAdapter

    patches = {
        where: LoRAAdapter(
            {f"{KEY}.{where if isinstance(where, str) else where[0]}"}, (up, down, None, None, None, None)
        )
        for where, (up, down) in factors.items()
    }
    return set(patcher.add_patches(patches))


def add_full(patcher: Any, differences: Mapping[Part, Tensor]) -> set[Part]:
    """Add whole differences to weights; returns the places that exist."""
    return set(patcher.add_patches({where: ("diff", (tensor,)) for where, tensor in differences.items()}))


def network_of(model: Any) -> Any:
    """The denoiser's modules, to be looked at only."""
    return model.model.diffusion_model


def text_network_of(clip: Any) -> Any:
    """A CLIP's modules, all encoders of it, to be looked at only."""
    return clip.patcher.model


def inputs_of(denoiser: Any) -> int:
    """Channels that a U-Net reads."""
    channels: int = denoiser.in_channels
    return channels


def settings_of(model: Any) -> Any:
    """The model's configuration object, where the demo model keeps its own words."""
    return getattr(model.model, "model_config", None)

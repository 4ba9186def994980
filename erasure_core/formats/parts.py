"""What the last part of a key in an adapter file means, whichever program wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import UnknownFormat

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # left by parallel and compiled training
_ADAPTER = r"(?:\.[A-Za-z0-9_-]+)?"  # the adapter's name that PEFT may put in: lora_A.default.weight
_PARTS = {
    "down": rf"(?:\.lora_down|_lora\.down|\.lora\.down|\.lora_linear_layer\.down|\.lora_A{_ADAPTER})\.weight|\.lora_A",
    "up": rf"(?:\.lora_up|_lora\.up|\.lora\.up|\.lora_linear_layer\.up|\.lora_B{_ADAPTER})\.weight|\.lora_B",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"(?:_lora|\.lora|\.lora_linear_layer)?(?:\.down\.weight)?\.alpha",
    "diff": r"\.diff|\.w_norm",
    "bias": r"\.diff_b|\.b_norm",
    "set": r"\.set_weight",
    "dora": rf"\.dora_scale|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?",
    "LoHa": r"\.hada_[wt][12](?:_[ab])?",
    "LoKr": r"\.lokr_[wt][12](?:_[ab])?",
    "OFT": r"\.oft_(?:blocks|diag|R)(?:\.[A-Za-z0-9_.-]+)?",
    "GLoRA": r"\.[ab][12]\.weight",
    "IA3": r"\.ia3_l(?:\.[A-Za-z0-9_.-]+)?|\.on_input",
}
_SUFFIX = {part: re.compile(rf"(.+?)(?:{pattern})") for part, pattern in _PARTS.items()}
# XLabs' attention processors for Flux: 1 is the stream of the image, 2 that of the text
_XLABS = re.compile(r"(.+_blocks\.\d+)\.processor\.(qkv|proj)_lora([12]?)\.(down|up)\.weight")
_STREAMS = {"1": "img_attn", "2": "txt_attn"}
_SINGLE = {"qkv": "linear1_qkv", "proj": "linear2"}
_REFUSED = {
    "dora": "a DoRA, whose change depends on the length of the model's own weights",
    "LoHa": "a LoHa (LyCORIS)",
    "LoKr": "a LoKr (LyCORIS)",
    "OFT": "an orthogonal fine-tuning adapter (OFT)",
    "GLoRA": "a GLoRA",
    "IA3": "an IA3 adapter",
}


def plain_key(key: str) -> str:
    """The key without what parallel and compiled training put in front."""
    return _WRAPPERS.sub("", key)


def split_key(key: str) -> tuple[str, str] | None:
    """Module and part of a key (``("lora_unet_conv_in", "down")``), None if the key belongs to no adapter."""
    plain = plain_key(key)
    xlabs = _XLABS.fullmatch(plain)
    if xlabs:
        block, what, stream, part = xlabs.groups()
        return f"{block}.{f'{_STREAMS[stream]}.{what}' if stream else _SINGLE[what]}", part
    for part, pattern in _SUFFIX.items():
        match = pattern.fullmatch(plain)
        if match:
            return match.group(1), part
    return None


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether any key is one of an adapter's (an ``.alpha`` alone is not enough)."""
    found = (split_key(key) for key in keys)
    return any(split is not None and split[1] != "alpha" for split in found)


def gather(tensors: Mapping[str, Tensor], file: str) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by module and part, and the keys that belong to no adapter.

    Raises :class:`UnknownFormat` for kinds of adapter that are no plain sum, and for several adapters in one file.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            strange.append(key)
            continue
        module, part = split
        if part in _REFUSED:
            raise UnknownFormat(
                f"{file} is {_REFUSED[part]}, which Membrane does not read (first such key: {key}). "
                "Convert it to a plain LoRA, or use it in your host beside Membrane."
            )
        if part == "set":
            raise UnknownFormat(
                f"{file} holds whole new weights ({key}) and not differences, so it would undo other changes. "
                "Subtract the base model's weights and save the differences."
            )
        if part == "alpha" and tensor.numel() != 1:
            raise UnknownFormat(f"{file} is damaged: {key} should be one number. Download or save the file again.")
        if part in modules.setdefault(module, {}):
            raise UnknownFormat(f"{file} holds several adapters for {module}. Save each one to a file of its own.")
        modules[module][part] = tensor
    return modules, strange

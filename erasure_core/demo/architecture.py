"""The three networks of the demo model in the Stable Diffusion 1 layout, and the folder a diffusers pipeline loads.

GroupNorm has 8 groups everywhere: with 32, one group per channel, the autoencoder never left the mean colour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from ..atomic import write_bytes
from .bundle import WEIGHTS, load_pipeline

LATENT_CHANNELS = 8
FACTOR = 8
GROUPS = 8
TOKENS = 77
SCALING = 0.6811264753341675
"""Scaling of the bundled model's latents; a new autoencoder measures its own."""

AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": GROUPS,
    "sample_size": 64,
}
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
DENOISER: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": [64, 96],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": GROUPS,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def zero_second_convolutions(module: nn.Module) -> None:
    """Start every residual block as the identity: its second convolution becomes zero."""
    for part in module.modules():
        second = getattr(part, "conv2", None)
        if isinstance(second, nn.Conv2d):
            nn.init.zeros_(second.weight)
            if second.bias is not None:
                nn.init.zeros_(second.bias)


def new_autoencoder(seed: int) -> Any:
    """A fresh ``AutoencoderKL``: residual blocks start as identities, the posterior's log-variance at -6."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL.from_config(AUTOENCODER)
    zero_second_convolutions(model)
    with torch.no_grad():
        # a spread of 1 from the start drowns the signal and training hardly moves
        for layer in (model.encoder.conv_out, model.quant_conv):
            layer.weight[LATENT_CHANNELS:] = 0
            layer.bias[LATENT_CHANNELS:] = 0
        model.quant_conv.bias[LATENT_CHANNELS:] = -6.0
    return model


def new_text_encoder(seed: int) -> Any:
    """A fresh ``CLIPTextModel`` of width 64 over the full CLIP vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).float()


def new_denoiser(seed: int) -> Any:
    """A fresh ``UNet2DConditionModel`` for 8 x 8 latents, residual blocks started as identities."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    model = UNet2DConditionModel.from_config(DENOISER)
    zero_second_convolutions(model)
    return model


def load_tokenizer(folder: Path = WEIGHTS) -> Any:
    """The standard CLIP tokenizer, from the bundled files."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))


def load_parts(folder: Path) -> tuple[Any, Any, Any]:
    """Autoencoder, text encoder and denoiser of a pipeline folder, in float32, ready to be trained on."""
    pipe = load_pipeline(folder)
    return pipe.vae, pipe.text_encoder, pipe.unet


def _part_files(model: Any, name: str, weights_name: str) -> dict[str, bytes]:
    state = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    if name == "text_encoder":  # named as in the bundled file, whatever the version of transformers
        state = {key.removeprefix("text_model."): value for key, value in state.items()}
        config = json.dumps({**model.config.to_dict(), "dtype": "float16"}, indent=2, sort_keys=True)
    else:
        config = model.to_json_string()
    return {
        f"{name}/{weights_name}": save(state, metadata={"format": "pt"}),
        f"{name}/config.json": config.encode(),
    }


def export(folder: Path, autoencoder: Any, text_encoder: Any, denoiser: Any) -> Path:
    """Write a diffusers ``StableDiffusionPipeline`` folder in half precision, laid out like the bundled one."""
    from diffusers import DDIMScheduler

    files = {
        **_part_files(autoencoder, "vae", "diffusion_pytorch_model.safetensors"),
        **_part_files(text_encoder, "text_encoder", "model.safetensors"),
        **_part_files(denoiser, "unet", "diffusion_pytorch_model.safetensors"),
        "scheduler/scheduler_config.json": DDIMScheduler.from_config(SCHEDULER).to_json_string().encode(),
        "model_index.json": (WEIGHTS / "model_index.json").read_bytes(),
    }
    for name, data in files.items():
        write_bytes(folder / name, data)
    for source in sorted((WEIGHTS / "tokenizer").iterdir()):
        if (folder / "tokenizer").resolve() != source.parent.resolve():
            write_bytes(folder / "tokenizer" / source.name, source.read_bytes())
    return folder


def same_layout(folder: Path) -> list[str]:
    """Names of tensors whose presence or shape differs from the bundled model's (empty: same layout)."""
    different = []
    for part, name in (
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
    ):
        ours, bundled = (load_file(base / part / f"{name}.safetensors") for base in (folder, WEIGHTS))
        keys = ours.keys() | bundled.keys()
        different += [
            f"{part}.{key}"
            for key in keys
            if getattr(ours.get(key), "shape", 0) != getattr(bundled.get(key), "shape", 0)
        ]
    return sorted(different)

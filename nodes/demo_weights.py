"""The bundled diffusers files as the host wants them: names, configurations, latent format."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from ..erasure_core.demo.bundle import WEIGHTS
from ..erasure_core.demo.captions import NEUTRALS
from ..erasure_core.keys import family_of
from .demo import Multiple

# For previews: least squares of 128 drawn pictures, averaged over 8 x 8 pixels, on their latents (R2 0.71)
RGB_FACTORS = [
    [0.1066, -0.2186, -0.2260],
    [-0.0113, 0.1796, -0.2737],
    [-0.6264, -0.1518, 0.2507],
    [-0.0302, -0.1488, 0.0734],
    [-0.0298, -0.0060, -0.1266],
    [0.0101, -0.0706, 0.0766],
    [0.0046, -0.0451, 0.1568],
    [0.0600, -0.1044, 0.2035],
]
RGB_BIAS = [0.1375, 0.0772, 0.1036]


def parts() -> dict[str, Any]:
    """Arguments of ``host.build_model``."""
    unet, text, autoencoder = (_config(part) for part in ("unet", "text_encoder", "vae"))
    denoiser = _weights("unet/diffusion_pytorch_model.safetensors")
    encoder = {f"text_model.{name}": tensor for name, tensor in _weights("text_encoder/model.safetensors").items()}
    shapes = {f"unet.{name}": tuple(tensor.shape) for name, tensor in denoiser.items()}
    family = family_of(shapes | {f"text_encoder.{name}": tuple(tensor.shape) for name, tensor in encoder.items()})
    places = family.host_slots()
    channels, layers = unet["block_out_channels"], unet["layers_per_block"]
    width = channels[0]
    depth = [int("CrossAttn" in kind) for kind in unet["down_block_types"] for _ in range(layers)]
    back = [int("CrossAttn" in kind) for kind in reversed(unet["up_block_types"]) for _ in range(layers + 1)]
    projection = text["projection_dim"]
    return {
        "unet": {
            "weights": {places[f"unet.{name}"].key.removeprefix("diffusion_model."): t for name, t in denoiser.items()},
            "config": {
                "image_size": 32,
                "in_channels": unet["in_channels"],
                "out_channels": unet["out_channels"],
                "model_channels": width,
                "channel_mult": [_multiple(channel, width) for channel in channels],
                "num_res_blocks": [layers] * len(channels),
                "transformer_depth": depth,
                "transformer_depth_middle": 1,
                "transformer_depth_output": back,
                "context_dim": unet["cross_attention_dim"],
                "use_spatial_transformer": True,
                "use_linear_in_transformer": unet["use_linear_projection"],
                "adm_in_channels": None,
                "use_temporal_attention": False,
                "legacy": False,
            },
        },
        "text": {
            "weights": {
                **{places[f"text_encoder.{name}"].key: tensor for name, tensor in encoder.items()},
                "clip_l.transformer.text_projection.weight": torch.eye(text["hidden_size"], projection),
                "clip_l.logit_scale": torch.tensor(4.6055),  # CLIP's; read by nothing, but no weight may be missing
            },
            "config": {
                key: text[key]
                for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
            }
            | {"projection_dim": projection},
        },
        "autoencoder": {
            "weights": _weights("vae/diffusion_pytorch_model.safetensors"),
            "config": _autoencoder(autoencoder),
        },
        "latent": {
            "channels": autoencoder["latent_channels"],
            "scale": autoencoder["scaling_factor"],
            "rgb": (RGB_FACTORS, RGB_BIAS),
        },
        "groups": unet["norm_num_groups"],
        "heads": unet["attention_head_dim"],  # the name is diffusers' old mistake: it is the number of heads
        "attributes": {"membrane_neutrals": dict(NEUTRALS), "membrane_size": autoencoder["sample_size"]},
    }


def _autoencoder(config: dict[str, Any]) -> dict[str, Any]:
    channels = config["block_out_channels"]
    return {
        "embed_dim": config["latent_channels"],
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": config["sample_size"],
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": channels[0],
            "ch_mult": [channel // channels[0] for channel in channels],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }


def _multiple(channels: int, width: int) -> float:
    return channels // width if channels % width == 0 else Multiple(channels / width)


def _config(part: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((WEIGHTS / part / "config.json").read_text(encoding="utf-8"))
    return data


def _weights(path: str) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(WEIGHTS / path).items()}

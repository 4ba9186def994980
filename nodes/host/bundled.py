"""The bundled model as objects of the host."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch


def build_model(
    unet: Mapping[str, Any],
    text: Mapping[str, Any],
    autoencoder: Mapping[str, Any],
    latent: Mapping[str, Any],
    groups: int,
    heads: int,
    attributes: Mapping[str, Any],
) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the Stable Diffusion 1 kind from ``config`` and ``weights`` (host names) of each part.

    ``latent``: ``channels``, ``scale``, and ``rgb`` for previews. ``groups``: of every group norm. ``attributes``: kept
    on the model's configuration.
    """
    import comfy.latent_formats
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models
    import comfy.supported_models_base

    class Latent(comfy.latent_formats.LatentFormat):  # type: ignore[misc, name-defined]
        latent_channels = latent["channels"]
        scale_factor = latent["scale"]
        latent_rgb_factors, latent_rgb_factors_bias = latent["rgb"]

    class Config(comfy.supported_models.SD15):  # type: ignore[misc, name-defined]
        unet_config: Mapping[str, Any] = {}  # nothing to recognise it by
        unet_extra_config = {"num_heads": heads, "num_head_channels": -1}  # noqa: RUF012 - the host's form
        latent_format = Latent

        def inpaint_model(self) -> bool:
            return False  # more than four channels do not mean a mask here

    with torch.inference_mode(False):  # else every weight would be an inference tensor
        config = Config(dict(unet["config"]))
        config.set_inference_dtype(torch.float32, None)
        for name, value in attributes.items():
            setattr(config, name, value)
        network = config.get_model({}, "", device=management.unet_offload_device())
        network.load_model_weights(dict(unet["weights"]), "")
        model = comfy.model_patcher.ModelPatcher(
            network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
        )
        target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
        known = inspect.signature(comfy.sd.CLIP.__init__).parameters
        extra = {"disable_dynamic": True} if "disable_dynamic" in known else {}
        clip = comfy.sd.CLIP(
            target, model_options={"clip_l_model_config": dict(text["config"]), "dtype": torch.float32}, **extra
        )
        clip.load_sd(dict(text["weights"]), full_model=True)
        vae = comfy.sd.VAE(
            sd=dict(autoencoder["weights"]), config={"params": dict(autoencoder["config"])}, dtype=torch.float32
        )
        vae.latent_channels = latent["channels"]
        for module in (*network.modules(), *vae.first_stage_model.modules()):
            if isinstance(module, torch.nn.GroupNorm):
                module.num_groups = groups
    return model, clip, vae

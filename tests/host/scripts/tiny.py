"""Random models of all families, small enough to build in half a second: ordinary MODEL and CLIP for the host."""

import inspect

import comfy.latent_formats
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.sd2_clip
import torch
from comfy.ldm.flux.model import FluxParams

PROJECTION = 96  # of SDXL's pooled vector; the host knows only square projections
SIZES = 6 * 256  # SDXL's label besides the pooled vector
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}

HEADS = {"num_heads": 4, "num_head_channels": -1}


class Tiny1(comfy.supported_models.SD15):
    unet_config = {}  # noqa: RUF012 - the host's form
    unet_extra_config = HEADS
    widths = {"l": 64}  # noqa: RUF012
    unet = {**UNET, "context_dim": 64, "use_linear_in_transformer": False, "adm_in_channels": None}  # noqa: RUF012
    clip = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)


class Tiny2(comfy.supported_models.SD20):
    unet_config = {}  # noqa: RUF012
    unet_extra_config = {**HEADS, "attn_precision": torch.float32}  # noqa: RUF012
    widths = {"h": 48}  # noqa: RUF012
    unet = {**UNET, "context_dim": 48, "use_linear_in_transformer": True, "adm_in_channels": None}  # noqa: RUF012
    clip = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.sd2_clip.SD2Tokenizer, comfy.text_encoders.sd2_clip.SD2ClipModel
    )


class TinyXL(comfy.supported_models.SDXL):
    unet_config = {}  # noqa: RUF012
    unet_extra_config = HEADS
    widths = {"l": 64, "g": 96}  # noqa: RUF012
    unet = {  # noqa: RUF012
        **UNET,
        "context_dim": 160,
        "use_linear_in_transformer": True,
        "adm_in_channels": PROJECTION + SIZES,
        "num_classes": "sequential",
    }
    clip = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)


KINDS = {"sd1": Tiny1, "sd2": Tiny2, "sdxl": TinyXL}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 32,
    "context_in_dim": 48,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    **({"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}),  # newer versions ask for it
}


class TinyDev(comfy.supported_models.Flux):
    unet_config = {}  # noqa: RUF012
    widths = {"l": 32}  # noqa: RUF012
    unet = {**FLUX, "guidance_embed": True}  # noqa: RUF012
    clip = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(dtype_t5=torch.float32)
    )


class TinySchnell(comfy.supported_models.FluxSchnell):
    unet_config = {}  # noqa: RUF012
    widths = TinyDev.widths
    unet = {**FLUX, "guidance_embed": False}  # noqa: RUF012
    clip = TinyDev.clip


TRANSFORMERS = {"flux-dev": TinyDev, "flux-schnell": TinySchnell}
T5 = {"d_model": FLUX["context_in_dim"], "d_ff": 96, "d_kv": 12, "num_heads": 4, "num_layers": 2}


def made_of(kind):
    """The host's configuration of one kind, ours to build from."""
    return {**KINDS, **TRANSFORMERS}[kind]


def random_weights(shapes, seed):
    """Weights by name: as large as trained ones, so that every part matters to the result."""
    made = torch.Generator().manual_seed(seed)
    result = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=made)
        if "norm" in name and name.endswith(("weight", "scale")):
            result[name] = 1 + values / 10
        elif len(shape) > 1:
            result[name] = values * (0.5 if "embedding" in name else values[0].numel() ** -0.5)
        else:
            result[name] = values / 20
    return result


def shapes_of(module, prefix=""):
    state = module.state_dict()
    return {name.removeprefix(prefix): tensor.shape for name, tensor in state.items() if name.startswith(prefix)}


def unet(kind="sd1", seed=0, dtype=torch.float32, cast=None):
    """MODEL with weights stored as ``dtype``, computed as ``cast`` if that is another."""
    with torch.inference_mode(False):
        made = made_of(kind)
        config = made(dict(made.unet))
        config.set_inference_dtype(dtype, cast)
        network = config.get_model({}, "", device=management.unet_offload_device())
        weights = random_weights(shapes_of(network, "diffusion_model."), seed)
        if "out.2.weight" in weights:
            weights["out.2.weight"] *= 10  # answers about as large as the noise
        network.load_model_weights({name: tensor.to(dtype) for name, tensor in weights.items()}, "")
        return comfy.model_patcher.ModelPatcher(
            network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
        )


def text_encoder(kind="sd1", seed=1, **more):
    """CLIP; ``more`` are arguments of the host's class."""
    made = made_of(kind)
    configs = {
        f"clip_{name}_model_config": {
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "projection_dim": width,
        }
        for name, width in made.widths.items()
    }
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    extra = {"disable_dynamic": True} if "disable_dynamic" in known else {}
    with torch.inference_mode(False):
        options = {**configs, "t5xxl_model_config": T5, "dtype": torch.float32}
        clip = comfy.sd.CLIP(made.clip, model_options=options, **extra, **more)
        clip.load_sd(random_weights(shapes_of(clip.cond_stage_model), seed), full_model=True)
    return clip

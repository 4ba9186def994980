"""Random pipelines in the shapes of SDXL and SD2, small enough to build in a second; nothing is downloaded."""

import contextlib
import warnings

import torch

WIDTHS = (64, 96)  # of SDXL's two text encoders
PROJECTION = 40  # of its pooled vector
SIZE_IDS = 6 * 8


def tokenizer(pad="<|endoftext|>"):
    """The bundled tokenizer; SDXL's second one and SD2's pad with "!", id 0."""
    from transformers import CLIPTokenizer

    from erasure_core.demo.bundle import WEIGHTS

    made = CLIPTokenizer.from_pretrained(str(WEIGHTS / "tokenizer"))
    made.pad_token = pad
    return made


def text_config(width, projection=PROJECTION, act="quick_gelu"):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * width,
        projection_dim=projection,
        hidden_act=act,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
        vocab_size=49408,
    )


@contextlib.contextmanager
def always_the_same():
    """Biases and the like come from the global generator: models must not depend on which tests ran before."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # the libraries about their own internals
        yield


def roughened(module, seed):
    """The module with larger random weights than fresh ones, so that its parts matter to each other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name and parameter.dim() > 1:
                scale = 0.5 if "embedding" in name else parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
    ).eval()


def unet(context, **more):
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": context,
        "attention_head_dim": 4,
        "use_linear_projection": True,
    }
    return roughened(UNet2DConditionModel(**{**settings, **more}), seed=11)


def tiny_sdxl():
    """A StableDiffusionXLPipeline with text_time conditioning and two transformer depths."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with always_the_same():
        pipe = StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=roughened(CLIPTextModel(text_config(WIDTHS[0])), seed=1),
            text_encoder_2=roughened(CLIPTextModelWithProjection(text_config(WIDTHS[1], act="gelu")), seed=2),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(pad="!"),
            unet=unet(
                sum(WIDTHS),
                transformer_layers_per_block=(1, 2),
                addition_embed_type="text_time",
                addition_time_embed_dim=SIZE_IDS // 6,
                projection_class_embeddings_input_dim=PROJECTION + SIZE_IDS,
            ),
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd2(width=48):
    """A StableDiffusionPipeline with linear projections and padding with id 0."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    with always_the_same():
        pipe = StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=roughened(CLIPTextModel(text_config(width, act="gelu")), seed=3),
            tokenizer=tokenizer(pad="!"),
            unet=unet(width),
            scheduler=DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe

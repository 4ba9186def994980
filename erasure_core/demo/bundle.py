"""The bundled shapes-world model as a diffusers pipeline: read from files beside this module, never from a network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

WEIGHTS = Path(__file__).parent / "weights"


def load_pipeline(folder: Path = WEIGHTS) -> Any:
    """A float32 ``StableDiffusionPipeline`` of the model in ``folder``; parts are built by hand, quietly.

    Raises FileNotFoundError if the checkout is incomplete.
    """
    from safetensors.torch import load_file

    with quiet_libraries():
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    def config(part: str, name: str = "config.json") -> dict[str, Any]:
        data: dict[str, Any] = json.loads((folder / part / name).read_text(encoding="utf-8"))
        return data

    def weights(path: str) -> dict[str, torch.Tensor]:
        return {name: tensor.float() for name, tensor in load_file(folder / path).items()}

    with quiet_libraries():
        unet = UNet2DConditionModel.from_config(config("unet"))
        unet.load_state_dict(weights("unet/diffusion_pytorch_model.safetensors"))
        vae = AutoencoderKL.from_config(config("vae"))
        vae.load_state_dict(weights("vae/diffusion_pytorch_model.safetensors"))
        text_config = {k: v for k, v in config("text_encoder").items() if k not in ("dtype", "torch_dtype")}
        text = CLIPTextModel(CLIPTextConfig(**text_config))
        text.load_state_dict(_text_names(weights("text_encoder/model.safetensors"), text.state_dict()))
        pipe: Any = StableDiffusionPipeline(
            vae=vae.eval(),
            text_encoder=text.float().eval(),
            tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
            unet=unet.eval(),
            scheduler=DDIMScheduler.from_config(config("scheduler", "scheduler_config.json")),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep notes of diffusers and transformers about their own internals and other packages from the user's screen."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    levels = of_diffusers.get_verbosity(), of_transformers.get_verbosity()
    of_diffusers.set_verbosity_error()
    of_transformers.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        of_diffusers.set_verbosity(levels[0])
        of_transformers.set_verbosity(levels[1])


def _text_names(stored: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as the installed transformers wants them: version 5 dropped the ``text_model.`` level, and buffers vary."""
    bare = {name.removeprefix("text_model."): tensor for name, tensor in stored.items()}
    return {name: bare.get(name.removeprefix("text_model."), tensor) for name, tensor in expected.items()}

"""A model folder in diffusers layout, as ``save_pretrained`` writes it, read from disk only."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..errors import BadInput, WrongFamily


def load_folder(folder: Path) -> Any:
    """The pipeline in ``folder``; only safetensors weights are read, and nothing is downloaded.

    Raises :class:`BadInput` if the folder is no model, :class:`WrongFamily` if diffusers cannot load it.
    """
    if not (folder / "model_index.json").is_file():
        raise BadInput(
            f"{folder} is not a model folder: it has no model_index.json. Give a folder in diffusers layout (as "
            "save_pretrained writes it), or 'demo' for the bundled model."
        )
    from diffusers import DiffusionPipeline

    try:
        pipe = DiffusionPipeline.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,  # True without it logs a warning
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WrongFamily(
            f"{folder} could not be loaded as a diffusers pipeline: {reason} "
            "The folder may be incomplete, or hold only pickled weights, which are refused."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe

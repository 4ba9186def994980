"""Further texts in the batch that the host evaluates at each step: where they are put, and what the step is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .marks import GUIDANCE, STAMP

Entries = Sequence[Mapping[str, Any]]  # one conditioning as samplings hold it

# what belongs to one text, one place or one part of the run; all else of a conditioning describes the picture
_OF_TEXT = {"cross_attn", "pooled_output", "attention_mask", "uuid", STAMP}
_OF_PLACE = {"area", "strength", "mask", "mask_strength", "set_area_to_bounds", "default"}
_OF_TIME = {"start_percent", "end_percent", "timestep_start", "timestep_end", "clip_start_percent", "clip_end_percent"}
_POSTERIOR = {"sample_euler_ancestral", "sample_ddpm"}


def encoded(clip: Any, prompt: str) -> list[dict[str, Any]]:
    """A prompt as CLIP Text Encode makes it, ready for samplings, with an identity that stays."""
    import comfy.sampler_helpers

    found: list[dict[str, Any]] = comfy.sampler_helpers.convert_cond(
        clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    )
    return found


def batch_wrapper_of(model: Any) -> Any | None:
    """Our wrapper around the batch of each step, if a node put one on this MODEL."""
    import comfy.patcher_extension as extension

    found = model.get_wrappers(extension.WrappersMP.CALC_COND_BATCH, GUIDANCE)
    return found[0] if found else None


def put_batch_wrappers(model: Any, around_batch: Callable[..., Any], around_sampling: Callable[..., Any]) -> None:
    """Put our two wrappers on a clone, in place of earlier ones."""
    import comfy.patcher_extension as extension

    for kind, wrapper in (
        (extension.WrappersMP.CALC_COND_BATCH, around_batch),
        (extension.WrappersMP.OUTER_SAMPLE, around_sampling),
    ):
        model.remove_wrappers_with_key(kind, GUIDANCE)
        model.add_wrapper_with_key(kind, GUIDANCE, wrapper)


@contextlib.contextmanager
def more_texts(guider: Any, texts: Mapping[str, Entries]) -> Iterator[None]:
    """While the guider samples it holds ``texts``, too, so that the host prepares them as it does its own.

    What describes the picture (size, inpainting, control, hooks) is taken from the negative, else from the prompt: then
    predictions differ by the text alone.
    """
    base = next(iter(guider.conds.get("negative") or guider.conds.get("positive") or ()), {})
    kept = {key: value for key, value in base.items() if key not in _OF_TEXT | _OF_PLACE | _OF_TIME}
    made = {role: [_joined(kept, entry) for entry in entries] for role, entries in texts.items()}
    guider.conds = {**guider.conds, **made}
    try:
        yield
    finally:
        for role in made:
            guider.conds.pop(role, None)


def _joined(kept: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**kept, **entry, "model_conds": {**kept.get("model_conds", {}), **entry.get("model_conds", {})}}


def text_of(guider: Any, role: str) -> Any | None:
    """A conditioning of the sampling that runs, prepared for its latent; None if there is none."""
    return guider.conds.get(role)


def scale_of(guider: Any) -> float:
    """The guidance scale of the sampling that runs; 1 for guiders without one."""
    return float(getattr(guider, "cfg", 1.0))


def levels_of(guider: Any) -> tuple[Callable[[float], float], bool]:
    """From progress 0..1 to noise level, and whether the model is a rectified flow."""
    import comfy.model_sampling

    levels = guider.model_patcher.get_model_object("model_sampling")
    return levels.percent_to_sigma, isinstance(levels, comfy.model_sampling.CONST)


def draws_from_posterior(sampler: Any) -> bool:
    """Whether each step is drawn from the posterior of the diffusion: DDPM, and Euler ancestral as it is by default."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    extra = getattr(sampler, "extra_options", {})
    return name in _POSTERIOR and extra.get("eta", 1.0) == 1.0 and extra.get("s_noise", 1.0) == 1.0


def step_of(options: Mapping[str, Any], timestep: torch.Tensor) -> tuple[float, list[float] | None]:
    """Noise level of one batch, and all levels of the run where they are known."""
    schedule = options.get("transformer_options", {}).get("sample_sigmas")
    return float(timestep.flatten()[0]), None if schedule is None else schedule.tolist()


def run_in(options: Mapping[str, Any], key: str) -> Any | None:
    """What :func:`running` has put into the options of a batch."""
    return options.get("transformer_options", {}).get(key)

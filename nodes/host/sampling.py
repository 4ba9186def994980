"""What happens while the host samples: wrappers, conditionings, noise levels, calls of the denoiser."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...erasure_core.chain import Place
from ...erasure_core.guidance import HostClock
from ...erasure_core.keys.text import Slot
from .batches import batch_wrapper_of, levels_of
from .marks import KEY, STAMP


def wrapper_of(model: Any) -> Any | None:
    """Our wrapper around the denoiser, if an earlier node put one there."""
    import comfy.patcher_extension as extension

    found = model.get_wrappers(extension.WrappersMP.DIFFUSION_MODEL, KEY)
    return found[0] if found else None


def put_wrappers(
    model: Any, around_denoiser: Callable[..., Any], around_sampling: Callable[..., Any], key: str = KEY
) -> None:
    """Put two wrappers of ours on a clone, in place of earlier ones of the same ``key``."""
    import comfy.patcher_extension as extension

    for kind, wrapper in (
        (extension.WrappersMP.DIFFUSION_MODEL, around_denoiser),
        (extension.WrappersMP.OUTER_SAMPLE, around_sampling),
    ):
        model.remove_wrappers_with_key(kind, key)
        model.add_wrapper_with_key(kind, key, wrapper)


def guider_of(executor: Any) -> Any:
    """What drives the sampling that a wrapper stands around: it holds the conditionings."""
    return executor.class_obj


@contextlib.contextmanager
def running(guider: Any, run: Any, key: str) -> Iterator[None]:
    """While the guider samples, ``run`` can be found under ``key`` in the options of every call of its denoiser."""
    options = guider.model_options.setdefault("transformer_options", {})
    before = options.get(key)
    options[key] = run
    try:
        yield
    finally:
        options.pop(key, None) if before is None else options.update({key: before})


def denoiser_of(executor: Any) -> Any:
    """The network that a wrapper around one of its calls stands around; with several GPUs one of its copies."""
    return executor.class_obj


def places(denoiser: torch.nn.Module, where: Mapping[str, Slot], layers: Iterable[str]) -> dict[str, Place]:
    """The modules of ``layers`` by canonical name; ``where`` says in which weight of the host's each one lies."""
    found = {}
    for layer in layers:
        slot = where[layer]
        module = denoiser.get_submodule(slot.key.removeprefix("diffusion_model.").rpartition(".")[0])
        found[layer] = Place(module, slot.start or 0, slot.length, slot.swapped)
    return found


def noise_now(options: Mapping[str, Any]) -> float | None:
    """Noise level of this call of the denoiser."""
    sigmas = options.get("sigmas")
    return None if sigmas is None else float(sigmas.flatten()[0])


def noise_between(guider: Any, start: float, end: float) -> tuple[float, float]:
    """Highest and lowest noise level of a part of the sampling, 0..1, as the host counts it."""
    levels = guider.model_patcher.get_model_object("model_sampling")
    return float(levels.percent_to_sigma(start)), float(levels.percent_to_sigma(end))


def _conds_of(guider: Any) -> dict[str, Any]:
    """Role -> entries, with the texts of our own guidance whether or not its wrapper has begun: order is nothing."""
    guidance = batch_wrapper_of(guider.model_patcher)
    return {**({} if guidance is None else guidance.texts), **guider.conds}


def times(guider: Any) -> dict[Any, tuple[float, float]]:
    """uuid -> highest and lowest noise level of each conditioning that is not used all the time."""
    return {
        entry.get("uuid"): noise_between(guider, entry.get("start_percent", 0.0), entry.get("end_percent", 1.0))
        for entries in _conds_of(guider).values()
        for entry in entries or ()
        if (entry.get("start_percent", 0.0), entry.get("end_percent", 1.0)) != (0.0, 1.0)
    }


def conditionings(guider: Any) -> Iterator[tuple[str, Any, Tensor, Mapping[str, Any] | None]]:
    """(role, uuid, rows [n, T, d], our stamp) of every text the guider samples with.

    Roles are "positive", "negative" and what other guiders and our own guidance add.
    """
    for role, entries in _conds_of(guider).items():
        for entry in entries or ():
            rows = entry.get("cross_attn")
            if rows is not None:
                yield role, entry.get("uuid"), rows, entry.get(STAMP)


def pooled_vectors(guider: Any) -> dict[Any, Tensor]:
    """uuid -> pooled vectors [n, p] of every text the guider samples with, where the model family has them."""
    entries = [entry for found in _conds_of(guider).values() for entry in found or ()]
    return {e.get("uuid"): e["pooled_output"] for e in entries if e.get("pooled_output") is not None}


def timed(conditioning: Any, spans: Sequence[tuple[float, float]]) -> list[Any]:
    """The entries of a CONDITIONING, each for its own part of the run; spans it had before still hold."""
    result = []
    for (rows, extra), (start, end) in zip(conditioning, spans, strict=True):
        begin, stop = max(start, extra.get("start_percent", 0.0)), min(end, extra.get("end_percent", 1.0))
        if begin < stop:
            whole = (begin, stop) == (0.0, 1.0)
            result.append([rows, extra if whole else {**extra, "start_percent": begin, "end_percent": stop}])
    return result


def chunks_of(options: Mapping[str, Any], key: str) -> tuple[Sequence[int], Sequence[Any], Any]:
    """(which conditioning list each chunk of the batch is from, its uuid, our run) of one call of the denoiser."""
    which = options.get("cond_or_uncond", ())
    return which, options.get("uuids") or [None] * len(which), options.get(key)


def clock_of(guider: Any) -> Callable[[Mapping[str, Any]], float]:
    """Tells from the options of a call how far the run is: 0 = pure noise, 1 = the picture, by the model's schedule."""
    clock = HostClock(levels_of(guider)[0])
    return lambda options: clock.progress(float(options["sigmas"].flatten()[0]))


def arguments_of(executor: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """What one call of the denoiser is given, by the names of its own function, to be changed and handed on.

    U-Nets and transformers take other arguments in another order, and other packs' wrappers pass them by position or by
    name; ``context``, ``y`` and ``transformer_options`` are called the same everywhere.
    """
    return inspect.signature(executor.original).bind(*args, **kwargs)


def feeds_regions(executor: Any, options: Mapping[str, Any]) -> bool:
    """Whether another pack changes the text inside cross-attention, past the denoiser's own input.

    Only U-Nets have a cross-attention: in any other denoiser such a patch is never called.
    """
    return hasattr(executor.class_obj, "input_blocks") and bool(options.get("patches", {}).get("attn2_patch"))


def with_last_patch(options: Mapping[str, Any], patch: Callable[..., Any]) -> dict[str, Any]:
    """A copy of the options in which ``patch(n, context, value, extra)`` comes after those of other packs."""
    patches = dict(options.get("patches", {}))
    patches["attn2_patch"] = [*patches.get("attn2_patch", ()), patch]
    return {**options, "patches": patches}

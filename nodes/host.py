"""Everything Membrane asks of ComfyUI; the only file that names the host's modules, classes, functions and options.

Public and long-lived names only, checked against every supported version by ``tests/host/test_names_host.py``. Modules
of the host are imported where they are used, so that this file can be read without one.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.chain import Place
from ..erasure_core.keys.text import Slot

KEY = "membrane"  # of our wrappers, of the run in the options, of our marks
STAMP = "membrane_tokens"  # under which a conditioning carries the words it was made from
FOLDERS = ("membranes", "loras")  # where files are looked for, the first one by bare names
POLICIES = "membrane_policies"  # the model folder of the firewall's policy files
_POLICY_ENDINGS = {".json", ".toml", ".csv", ".txt"}
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files to load; none is ever unpickled
ENCODERS = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}  # the host's names of text encoders -> ours


# --- models -----------------------------------------------------------------------------------------------------------


def clone(model: Any) -> Any:
    """A MODEL that shares the weights of the given one and can be changed without changing it."""
    return model.clone()


def text_patcher(clip: Any) -> Any:
    """What holds the weights and changes of a CLIP, as a MODEL is for the denoiser."""
    return clip.patcher


def shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Host name -> shape of every weight of a MODEL's or CLIP's patcher."""
    return {name: tuple(tensor.shape) for name, tensor in patcher.model_state_dict().items()}


def key_patches(patcher: Any) -> Mapping[str, Sequence[Any]]:
    """Host name -> [(weight before all patches, function that dequantises it), *patches in order]."""
    found: Mapping[str, Sequence[Any]] = patcher.get_key_patches()
    return found


def weight_with(weight: Tensor, patches: Sequence[Any], key: str) -> Tensor:
    """``weight`` (float32, may be overwritten) with the patches of other nodes in force."""
    import comfy.lora

    result: Tensor = comfy.lora.calculate_weight(list(patches), weight, key) if patches else weight
    return result


def is_ours(patch: Sequence[Any]) -> bool:
    """Whether a patch was made by :func:`add_low_rank`."""
    marks = getattr(patch[1], "loaded_keys", ())
    return bool(marks) and all(str(mark).startswith(f"{KEY}.") for mark in marks)


Part = str | tuple[str, tuple[int, int, int]]  # a weight by host name, or (dimension, start, length) of one


def place(name: str, start: int | None, length: int | None) -> Part:
    """A whole weight, or ``length`` rows of one from ``start``, as patches name it."""
    return name if start is None or length is None else (name, (0, start, length))


def add_low_rank(patcher: Any, factors: Mapping[Part, tuple[Tensor, Tensor]]) -> set[Part]:
    """Add ``up @ down`` to weights; returns the places that exist."""
    from comfy.weight_adapter import LoRAAdapter

    patches = {
        where: LoRAAdapter(
            {f"{KEY}.{where if isinstance(where, str) else where[0]}"}, (up, down, None, None, None, None)
        )
        for where, (up, down) in factors.items()
    }
    return set(patcher.add_patches(patches))


def add_full(patcher: Any, differences: Mapping[Part, Tensor]) -> set[Part]:
    """Add whole differences to weights; returns the places that exist."""
    return set(patcher.add_patches({where: ("diff", (tensor,)) for where, tensor in differences.items()}))


def network_of(model: Any) -> Any:
    """The denoiser's modules, to be looked at only."""
    return model.model.diffusion_model


def settings_of(model: Any) -> Any:
    """The model's configuration object, where the demo model keeps its own words."""
    return getattr(model.model, "model_config", None)


# --- acting at run time -----------------------------------------------------------------------------------------------


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


def times(guider: Any) -> dict[Any, tuple[float, float]]:
    """uuid -> highest and lowest noise level of each conditioning that is not used all the time."""
    return {
        entry.get("uuid"): noise_between(guider, entry.get("start_percent", 0.0), entry.get("end_percent", 1.0))
        for entries in guider.conds.values()
        for entry in entries or ()
        if (entry.get("start_percent", 0.0), entry.get("end_percent", 1.0)) != (0.0, 1.0)
    }


def conditionings(guider: Any) -> Iterator[tuple[str, Any, Tensor, Mapping[str, Any] | None]]:
    """(role, uuid, rows [n, T, d], our stamp) of every text the guider samples with.

    Roles are "positive", "negative" and what other guiders add.
    """
    for role, entries in guider.conds.items():
        for entry in entries or ():
            rows = entry.get("cross_attn")
            if rows is not None:
                yield role, entry.get("uuid"), rows, entry.get(STAMP)


def pooled_vectors(guider: Any) -> dict[Any, Tensor]:
    """uuid -> pooled vectors [n, p] of every text the guider samples with, where the model family has them."""
    entries = [entry for found in guider.conds.values() for entry in found or ()]
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
    sigma_at = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma

    def progress(options: Mapping[str, Any]) -> float:
        sigma = float(options["sigmas"].flatten()[0])
        low, high = 0.0, 1.0
        for _ in range(20):  # the host only has the way from progress to sigma, which falls all the way
            middle = (low + high) / 2
            low, high = (middle, high) if float(sigma_at(middle)) > sigma else (low, middle)
        return (low + high) / 2

    return progress


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


# --- text -------------------------------------------------------------------------------------------------------------


def tokenize(clip: Any, prompt: str) -> dict[str, list[list[tuple[Any, ...]]]]:
    """Host encoder name -> chunks of (token id or vector, weight)."""
    tokens: dict[str, list[list[tuple[Any, ...]]]] = clip.tokenize(prompt)
    return tokens


def encode(clip: Any, tokens: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Rows [1, T, d] as the denoiser gets them (clip-skip, LoRA and hooks included) and the pooled vector [1, p]."""
    hidden, pooled = clip.encode_from_tokens(dict(tokens), return_pooled=True)
    return hidden, pooled


def clip_skip_of(clip: Any) -> int | None:
    """Which layer was chosen, counted from the end from 1; None if the model's own."""
    return None if clip.layer_idx is None else -int(clip.layer_idx)


def words_in(clip: Any, encoder: str, ids: Sequence[int]) -> str:
    """Plain text of token ids, for people."""
    tokenizer = getattr(clip.tokenizer, ENCODERS[encoder], None)
    if tokenizer is None:
        return ""
    words = "".join(word for _, word in tokenizer.untokenize([(token, 1.0) for token in ids if token >= 0]))
    return words.replace("</w>", " ").strip()


def with_encoding(clip: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """A clone whose encoding is ``wrap(encoding before)``; the CLIP that was given stays as it is."""
    name = "encode_token_weights"
    clone = clip.clone()
    before = clone.patcher.get_model_object(name)
    if getattr(before, KEY, False):
        return clone  # an earlier node of ours
    wrapped = wrap(before)
    setattr(wrapped, KEY, True)
    clone.patcher.add_object_patch(name, wrapped)
    return clone


# --- files ------------------------------------------------------------------------------------------------------------


def register_folders() -> None:
    """Our folders below ``models``; places that a user's settings name for them stay, too."""
    import folder_paths

    for name, own in ((FOLDERS[0], set(ENDINGS)), (POLICIES, _POLICY_ENDINGS)):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name), is_default=True)
        places, endings = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (places, set(endings) | own)


def policy_names() -> list[str]:
    """Policy files to choose from, with forward slashes."""
    import folder_paths

    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list(POLICIES))
    return [name for name in names if Path(name).suffix.lower() in _POLICY_ENDINGS]


def policy_path(name: str) -> Path | None:
    """Where a policy file lies; None if there is none of that name."""
    import folder_paths

    if name not in policy_names():
        return None
    return Path(folder_paths.get_full_path_or_raise(POLICIES, name))


def file_names() -> list[str]:
    """Files to choose from, with forward slashes; those in ``loras`` as ``loras/NAME``."""
    return [shown for shown, _, _ in _files()]


def file_path(name: str) -> Path | None:
    """Where the file that is listed as ``name`` lies; None if there is none. Nothing outside the folders is found."""
    import folder_paths

    for shown, kind, listed in _files():
        if shown == name.replace("\\", "/"):
            return Path(folder_paths.get_full_path_or_raise(kind, listed))
    return None


def _files() -> Iterable[tuple[str, str, str]]:
    import folder_paths

    for kind in FOLDERS:
        for listed in folder_paths.get_filename_list(kind):
            if listed.lower().endswith(ENDINGS):
                shown = listed.replace("\\", "/")
                yield (shown if kind == FOLDERS[0] else f"{kind}/{shown}"), kind, listed


def folder_for(kind: str) -> Path:
    """The folder that new files of ``kind`` go into."""
    import folder_paths

    return Path(folder_paths.get_folder_paths(kind)[0])


def save_place(name: str, folder: Path) -> Path:
    """``name`` (subfolders and %date% patterns allowed) inside ``folder``, made if missing; raises outside of it."""
    import folder_paths

    inside, file, *_ = folder_paths.get_save_image_path(name, str(folder))
    return Path(inside) / file


# --- server -----------------------------------------------------------------------------------------------------------


def send(event: str, data: Mapping[str, Any]) -> None:
    """Tell the page; nothing happens where the host runs without its server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None:
        instance.send_sync(event, dict(data))


def progress(total: int, node_id: str | None) -> Callable[[int], None]:
    """A bar on the node; call it with how much is done."""
    import comfy.utils

    bar = comfy.utils.ProgressBar(total, node_id=node_id)
    return lambda done: bar.update_absolute(done, total)


def stop_if_asked() -> None:
    """Raises the host's own interruption if the user pressed cancel."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()


# --- the bundled model ------------------------------------------------------------------------------------------------


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

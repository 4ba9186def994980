"""SPM's, LECO's and Concept Sliders' files: one dialect, a configuration and a list of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...templates import contexts, fill
from ..examples import Example
from ..methods.slider import attributed
from .configuration import Configuration, concepts_of
from .files import Fields, beside, content_of, parsed

STEPS = {"spm": 3000, "leco": 500, "slider": 500}  # where a file says nothing
GRID = {"spm": 30, "leco": 50, "slider": 50}
_ANCHORED = ("la_strength", "sampling_batch_size", "use_template")  # only SPM's prompts have these
_SCOPES = {
    "lierla": {"noxattn": "selfattn", "innoxattn": "selfattn", "full": "attention"},
    "c3lier": {"noxattn": "slider", "innoxattn": "slider", "full": "c3lier"},
}
_EITHER = {"selfattn": "selfattn", "xattn": "xattn"}
_SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine",
}


@dataclass(frozen=True)
class _Prompt:
    """One entry of a list of prompts: texts by role, and what all entries have to agree on."""

    texts: dict[str, str]
    eta: float
    shared: dict[str, Any]
    templated: bool


def read(path: Path, text: str, attributes: Sequence[str]) -> Configuration:
    """The configuration in ``text``, with the list of prompts that it names."""
    root = parsed(path, text)
    alone = isinstance(root, list)
    config = Fields({} if alone else root, path.name)
    notes: list[str] = []
    prompts, where = (root, path.name) if alone else _prompts(path, config)
    entries = [Fields(entry, f"prompt {i + 1} of {where}") for i, entry in enumerate(prompts)]
    network, train = config.section("network"), config.section("train")
    method = _method(network, train, entries)
    read_entries = [_entry(entry, method, notes) for entry in entries]
    options = {
        **_network(network, method, notes),
        **_training(train, method, notes),
        **_shared(read_entries, notes),
    }
    _rest(config, network, train, notes)
    found = [Example(prompt.texts, eta=prompt.eta) for prompt in _templated(read_entries)]
    found = [attributed(example, name) for name in attributes for example in found] or found
    if method == "spm" and not _published(found):
        method = "leco"
        options = {"scope": "xformer", **options}
        notes.append("Its prompts differ in guidance, or in target and positive: trained as leco with SPM's layers.")
    if len({example.eta for example in found}) == 1 and (found[0].eta or 0) >= 0:
        options["eta"] = found[0].eta
        found = [replace(example, eta=None) for example in found]
    return Configuration(method, concepts_of(found), tuple(found), options, tuple(dict.fromkeys(notes)))


def _prompts(path: Path, config: Fields) -> tuple[Any, str]:
    name = config.take("prompts_file", "")
    if not name:
        raise BadInput(f"{path.name} names no prompts_file. Add one, or give the list of prompts itself.")
    if Path(name).suffix.lower() not in (".yaml", ".yml"):
        raise BadInput(f"The prompts of {path.name} are in {name}. Lists of prompts are read from .yaml files.")
    found = beside(path, name)
    if found is None:
        raise BadInput(f"The list of prompts {name} of {path.name} is not there. Put it beside {path.name}.")
    prompts = parsed(found, content_of(found))
    if not isinstance(prompts, list) or not prompts:
        raise BadInput(f"{found.name} has to be a list of prompts, each with a target.")
    return prompts, found.name


def _method(network: Fields, train: Fields, entries: Sequence[Fields]) -> str:
    """Whose file it is, by what only this one has."""
    if any(name in entry for entry in entries for name in _ANCHORED) or "unet_lr" in train:
        return "spm"
    return "slider" if "training_method" in network else "leco"


def _entry(entry: Fields, method: str, notes: list[str]) -> _Prompt:
    if "target" not in entry:
        raise BadInput(f"{entry.where.capitalize()} has no target. Write what is to change: target: van gogh")
    target = entry.take("target", "")
    positive = entry.take("positive", target)
    unconditional = entry.take("unconditional", "")
    neutral = entry.take("neutral", unconditional)
    if not target and not positive:
        raise BadInput(f"{entry.where.capitalize()} has neither a target nor a positive text. Write one of the two.")
    action = entry.take("action", "erase")
    if action not in ("erase", "enhance", "erase_with_la"):
        raise BadInput(f"The action in {entry.where} is '{action}'. Known: erase, enhance, erase_with_la.")
    eta = entry.take("guidance_scale", 1.0) * (-1 if action == "enhance" else 1)
    shared: dict[str, Any] = {"size": entry.take("resolution", 512), "draws": entry.take("batch_size", 1)}
    strength, samples = entry.take("la_strength", 1000.0), entry.take("sampling_batch_size", 4)
    if method == "spm":
        anchored = action == "erase_with_la"
        shared |= {"random_anchors": samples if anchored else 0, "word_anchors": 0, "anchor_weight": strength}
    else:
        shared["word_anchors"] = 0
    if entry.take("dynamic_resolution", False) or entry.take("bucketing", False):
        notes.append("dynamic_resolution: trained at one size here.")
    if entry.take("dynamic_crops", False):
        notes.append("dynamic_crops: the whole picture is trained on here.")
    templated = entry.take("use_template", False)
    entry.drop("dynamic_resolution", "bucketing", "case_number")
    if "seed" in entry:
        shared["seed"] = entry.take("seed", 0)
    notes += [f"{name} in {entry.where} is not known and has no effect." for name in entry.left]
    # SPM's code takes the difference from neutral, whatever unconditional says
    end = neutral if method == "spm" else unconditional
    texts = {"concept": target, "anchor": neutral, "positive": positive, "unconditional": end, "neutral": neutral}
    return _Prompt(texts, eta, shared, templated)


def _templated(prompts: Sequence[_Prompt]) -> list[_Prompt]:
    """Where a prompt asks for templates, its target in sentences of ours."""
    return [
        replace(prompt, texts={**prompt.texts, "concept": fill(template, prompt.texts["concept"])})
        for prompt in prompts
        for template in (contexts("object") if prompt.templated else ("{}",))
    ]


def _published(examples: Sequence[Example]) -> bool:
    """Whether SPM's own objective is what they ask for: one guidance, and the target is what is erased."""
    one = len({example.eta for example in examples}) == 1 and (examples[0].eta or 0) >= 0
    return one and all(example.texts["positive"] in example.texts["concept"] for example in examples)


def _network(network: Fields, method: str, notes: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"rank": network.take("rank", 1 if method == "spm" else 4)}
    options["alpha"] = network.take("alpha", 1.0)
    kind = network.take("type", "lierla")
    if kind not in _SCOPES:
        raise BadInput(f"type in {network.where} is '{kind}'. Known: {', '.join(_SCOPES)}.")
    if method == "slider":
        layers = network.take("training_method", "noxattn")
        known = {**_SCOPES[kind], **_EITHER}
        if layers not in known:
            notes.append(f"training_method {layers}: has no counterpart here, trained as noxattn is. Or set scope.")
        options["scope"] = known.get(layers, known["noxattn"])
    elif method == "leco":
        options["scope"] = {"lierla": "attention", "c3lier": "c3lier"}[kind]
    return options


def _training(train: Fields, method: str, notes: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"steps": train.take("iterations", STEPS[method])}
    lr = train.take("lr", 1e-4)
    options["lr"] = train.take("unet_lr", lr)
    schedule = train.take("lr_scheduler", "cosine_with_restarts" if method == "spm" else "constant").lower()
    warm = schedule.startswith("cosine") or schedule.endswith("warmup")
    warmup = train.take("lr_warmup_steps", 500 if method == "spm" else 0)
    options["schedule"] = _SCHEDULES.get(schedule, "constant")
    options["warmup"] = warmup if warm else 0
    if schedule == "cosine_with_restarts":
        notes.append("lr_scheduler cosine_with_restarts: one cosine without restarts here.")
    elif schedule not in _SCHEDULES:
        notes.append(f"lr_scheduler {schedule}: has no counterpart here, the learning rate is constant.")
    options["grid"] = train.take("max_denoising_steps", GRID[method])
    options["clip"] = train.take("max_grad_norm", 0.0)
    optimiser = train.take("optimizer_type", train.take("optimizer", "AdamW"))
    train.drop("optimizer")
    if optimiser.lower() not in ("adamw", "adam"):
        notes.append(f"optimizer {optimiser}: trained with AdamW in single precision here.")
    precision = train.take("precision", "float32")
    if precision not in ("float32", "fp32"):
        notes.append(f"precision {precision}: the pairs are in single precision here, the model in its own.")
    scheduler = train.take("noise_scheduler", "ddim")
    if scheduler.lower() != "ddim":
        notes.append(f"noise_scheduler {scheduler}: latents are made by DDIM here.")
    train.drop("text_encoder_lr", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_args", "batch_size")
    train.drop("resolution")  # of the prompts, which say their own
    return options


def _shared(prompts: Sequence[_Prompt], notes: list[str]) -> dict[str, Any]:
    first = prompts[0].shared
    notes += [
        f"Its prompts differ in what is here one option for all, {name}: that of the first is taken."
        for name in first
        if len({prompt.shared.get(name) for prompt in prompts}) > 1
    ]
    return dict(first)


def _rest(config: Fields, network: Fields, train: Fields, notes: list[str]) -> None:
    """Say what is not read: sections about the model, about saving and logging, and names that nobody knows."""
    if "pretrained_model" in config:
        notes.append("pretrained_model: trained on the model that is loaded here.")
    if "inference" in config:
        notes.append("inference: nothing is drawn while reading settings.")
    config.drop("pretrained_model", "save", "logging", "other", "inference")
    for section in (config, network, train):
        notes += [f"{name} in {section.where} is not known and has no effect." for name in section.left]

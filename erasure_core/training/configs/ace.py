"""ACE's settings: a command line in a shell script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ..examples import Example
from .configuration import Configuration, concepts_of
from .files import Fields, beside, content_of

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)$")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_FLAGS = {  # ours by theirs, with the value that their parser has
    "iterations": ("steps", 1000),
    "lr": ("lr", 1e-5),
    "negative_guidance": ("eta_c", 1.0),
    "surrogate_guidance": ("eta_p", 3.0),
    "start_guidance": ("guidance", 3.0),
    "ddim_steps": ("grid", 50),
    "image_size": ("size", 512),
    "lora_rank": ("rank", 4),
    "anchor_batch_size": ("word_anchors", 2),
}


def read(path: Path, text: str) -> Configuration:
    """The first command in ``text`` that has a ``--prompt``."""
    flags = Fields(_flags(path, text), path.name)
    notes: list[str] = []
    options: dict[str, Any] = {ours: flags.take(name, usual) for name, (ours, usual) in _FLAGS.items()}
    options |= {"eta_u": options["eta_c"], "alpha": 1.0, "draws": 1, "ramp": 0, "schedule": "constant", "clip": 0.0}
    options |= {"warmup": 0, "pl": flags.take("pl_weight", 0.5), "nw": flags.take("null_weight", 0.8)}
    if not flags.take("is_train_null", False):
        options["nw"] = 0.0
    if not flags.take("with_prior_preservation", False):
        options |= {"pl": 0.0, "word_anchors": 0}
    if flags.take("no_cond", False):
        options["nw"] = 1.0
    separator, prompt = flags.take("seperator", ""), flags.take("prompt", "")
    words = [word.strip() for word in (prompt.split(separator) if separator else [prompt]) if word.strip()]
    if not words:
        raise BadInput(f"The --prompt in {path.name} is empty. Write the concept to erase.")
    surrogate = flags.take("surrogate", "")
    if surrogate:
        notes.append(f"surrogate '{surrogate}': taken as the anchor of the concept's own branch.")
    kept = _kept(path, flags.take("anchor_prompt_path", ""), notes)
    if "sc_clip_path" in flags:
        notes.append("sc_clip_path: gamma is measured by the likeness of texts here, not read from a file.")
    else:
        options["gamma"] = "one"
    if flags.take("change_step_rate", 1.0) != 1.0:
        notes.append("change_step_rate: latents are taken from all parts of a trajectory here.")
    notes.append("ACE's code trains on finished pictures whatever the timestep; latents=final does the same here.")
    flags.drop("sc_clip_path", "no_certain_sur", "devices", "train_method", "model_path", "textencoder_lr")
    flags.drop("config_path", "diffusers_config_path", "attention_strength")
    notes += [f"--{name} in {path.name} has no counterpart here and no effect." for name in flags.left]
    examples = tuple(Example({"concept": word, "anchor": surrogate}) for word in words)
    return Configuration("ace", concepts_of(examples, kept), examples, options, tuple(notes))


def _flags(path: Path, text: str) -> dict[str, str]:
    """Names and values of the flags; one without a value is "true". Variables of the script are put in."""
    known: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        bare = line.split("#", 1)[0] if line.lstrip().startswith("#") else line
        put = _VARIABLE.sub(lambda found: known.get(found[1] or found[2], ""), bare)
        assigned = _ASSIGNMENT.match(put)
        if assigned and "--prompt" not in put:
            known[assigned[1]] = "".join(_words(path, assigned[2])[:1])
        elif "--prompt" in put:
            return _pairs(_words(path, put.rstrip().removesuffix("\\")))
    raise BadInput(f"{path.name} has no command with a --prompt.")


def _words(path: Path, line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise BadInput(f"{path.name} has a quote that is never closed. Close it and try again.") from error


def _pairs(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            after = words[i + 1] if i + 1 < len(words) else "--"
            found[name] = value if sign else "true" if after.startswith("--") else after
    return found


def _kept(path: Path, name: str, notes: list[str]) -> list[str]:
    """The words that must stay, one a line, from the file that the command names."""
    if not name:
        return []
    found = beside(path, name)
    if found is None:
        notes.append(f"anchor_prompt_path {name}: not there; name what must stay, or our neutral texts are kept.")
        return []
    return list(dict.fromkeys(filter(None, (line.strip() for line in content_of(found).splitlines()))))

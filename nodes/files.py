"""Files of membranes as the nodes name them: found by name, else by content, else solved again from a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..erasure_core.atomic import write_bytes
from ..erasure_core.calibration import fitted
from ..erasure_core.closed_form import METHODS
from ..erasure_core.combine import METHOD as SUM
from ..erasure_core.erasure import Erasure
from ..erasure_core.errors import BadInput, CannotWrite, UnknownFormat
from ..erasure_core.formats import dump, with_ending
from ..erasure_core.formats.concept import named
from ..erasure_core.formats.digests import digest_of
from ..erasure_core.join import join
from ..erasure_core.membranes import checked, solved
from . import host
from .reading import Base, memory, read

PROPERTY = "membrane"  # of a node in a workflow: what its file was
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_NAMES = ("phrases", "neighbours", "rows")  # of what feeds a gate: the rest is measured again with the recipe
_RECIPE_LIMIT = 100_000  # characters; longer recipes would bloat every picture that stores its workflow


@dataclass(frozen=True)
class Found:
    """An erasure, the name of its file, what is to be told about it, and what the workflow is to remember of it."""

    erasure: Erasure
    name: str
    notes: tuple[str, ...] = ()
    reference: Mapping[str, Any] | None = None


def state_of(path: Path | None) -> str:
    """Changes when the file does."""
    if path is None:
        return "missing"
    facts = path.stat()
    return f"{facts.st_mtime_ns} {facts.st_size}"


def find(name: str, extra_pnginfo: Any, node_id: str | None, base: Base, concept: str = "") -> Found:
    """The file ``name``; if it is gone, one with the content the workflow remembers; else the recipe, not yet solved.

    ``base``: the model it is meant for, where one is connected; ``concept``: what it erases, in place of what it says.
    Raises UnknownFormat if nothing is left to go by, and what reading a file raises.
    """
    path, note = host.file_path(name), ""
    remembered = _property(extra_pnginfo, node_id)
    if path is None and remembered:
        for other in host.file_names():
            candidate = host.file_path(other)
            if candidate is not None and _same(candidate, remembered):
                path, note = candidate, f"'{name}' is now called '{other}': found by its content"
                name = other
                break
    if path is not None:
        erasure, told = read(path, base, concept)
        notes = ((note,) if note else ()) + told
        return Found(erasure, _shown(name), notes, _reference(path, erasure))
    recipe = remembered.get("recipe")
    if isinstance(recipe, Mapping) and _solvable(recipe):
        gate = remembered.get("gate")
        erasure = named(Erasure(recipe=recipe, gate=gate if isinstance(gate, Mapping) else {}), concept)
        note = f"'{name}' is not on this machine: it will be solved again"
        return Found(erasure, _shown(name), (note,), remembered)
    raise UnknownFormat(
        f"'{name}' is not in models/membranes or models/loras, and this workflow has no recipe to solve it again. "
        "Put the file there, or choose another one."
    )


def write(
    membranes: Sequence[Any],
    name: str,
    form: str,
    precision: str,
    overwrite: bool,
    model: Any,
    clip: Any,
    node_id: str | None,
) -> tuple[str, Path, Erasure]:
    """Save ``membranes`` as one, jointly solved where possible; returns name as listed, path and what was saved."""
    if not name.strip() or name.rstrip().endswith(("/", "\\")):
        raise CannotWrite("The name of the file is empty. Write one, such as no-circle.")
    membranes = checked(membranes)
    target = _target(membranes, form, model, clip, node_id)
    erasure = join([(solved(target, m)[0], float(m.strength)) for m in membranes], target)
    if target is not None and form == "native":
        erasure = fitted(erasure, target)
    data = dump(erasure, form, None if target is None else target.weights(), _DTYPES[precision])
    folder = host.folder_for(host.FOLDERS[0] if form == "native" else host.FOLDERS[1])
    path = place_in(name.strip(), folder)
    if not overwrite:
        path = _free(path, data)
    if not _holds(path, data):
        write_bytes(path, data)
    listed = path.relative_to(folder).as_posix()
    return (listed if form == "native" else f"{host.FOLDERS[1]}/{listed}"), path, erasure


def _target(membranes: Sequence[Any], form: str, model: Any, clip: Any, node_id: str | None) -> Any:
    """The model, where the form or a missing file needs it."""
    from .model import HostModel

    if model is not None and clip is not None:
        return HostModel(model, clip, node_id)
    missing = [m for m in membranes if not (m.erasure.maps or m.erasure.weight_deltas or m.erasure.bottlenecks)]
    if missing:
        raise BadInput(
            f"The file of '{missing[0].label}' is missing. Connect model and clip, so that it can be solved."
        )
    if form == "lora" and any(membrane.erasure.maps for membrane in membranes):
        raise BadInput(
            "A LoRA belongs to one model. Connect model and clip of the checkpoint it is for, or save the native form."
        )
    return None


def place_in(name: str, folder: Path) -> Path:
    """``name`` inside ``folder``; raises CannotWrite for a place outside of it."""
    parts = Path(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise CannotWrite(f"'{name}' lies outside the folder {folder.name}. Write a name, or folder/name.")
    folder.mkdir(parents=True, exist_ok=True)
    return with_ending(host.save_place(parts.as_posix(), folder))


def _free(path: Path, data: bytes) -> Path:
    """``path``, or with a number if it is taken by other content."""
    number, candidate = 2, path
    while candidate.exists() and not _holds(candidate, data):
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _reference(path: Path, erasure: Erasure) -> dict[str, Any]:
    """What identifies the file, and what replaces it."""
    recipe = dict(erasure.recipe) if _solvable(erasure.recipe) else {}
    if len(json.dumps(recipe, default=str)) > _RECIPE_LIMIT:
        recipe = {}
    return {
        "sha256": digest_of(path, memory(), host.stop_if_asked),
        "bytes": path.stat().st_size,
        "recipe": recipe,
        "gate": {key: erasure.gate[key] for key in _NAMES if key in erasure.gate} if recipe else {},
    }


def _same(path: Path, reference: Mapping[str, Any]) -> bool:
    """Whether the file has the content; only files of the very size are read."""
    if path.stat().st_size != reference.get("bytes"):
        return False
    return digest_of(path, memory(), host.stop_if_asked) == reference.get("sha256")


def _solvable(recipe: Mapping[str, Any]) -> bool:
    """Whether an erasure can be made again from its recipe alone: what was trained cannot."""
    if recipe.get("method") == SUM:
        parts = recipe.get("parts") or ()
        return bool(parts) and all(isinstance(part, Mapping) and _solvable(part.get("recipe") or {}) for part in parts)
    return recipe.get("method") in METHODS and bool(recipe.get("concepts"))


def _property(extra_pnginfo: Any, node_id: str | None) -> Mapping[str, Any]:
    """What the workflow remembers of the node's file; nodes inside subgraphs have ids like 5:12."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, Mapping) else None
    if not isinstance(workflow, Mapping) or node_id is None:
        return {}
    inside = [g.get("nodes", ()) for g in (workflow.get("definitions") or {}).get("subgraphs", ())]
    wanted = str(node_id).rpartition(":")[2]
    for nodes in [workflow.get("nodes", ())] if ":" not in str(node_id) else inside:
        for node in nodes:
            if str(node.get("id")) == wanted and node.get("type") == "MembraneLoad":
                found = (node.get("properties") or {}).get(PROPERTY)
                return found if isinstance(found, Mapping) else {}
    return {}


def _shown(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return last[: -len(Path(last).suffix)] if last.lower().endswith(host.ENDINGS) else last

"""The index of a policy: what likeness needs of every rule, measured once for a text encoder, kept beside the policy.

A safetensors file with the tensors of :class:`~erasure_core.likeness.Likeness` (vectors in fp16) and, in its metadata,
the policy's fingerprint and the encoder's probe. If either differs, it is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

from ..atomic import write_bytes
from ..errors import UnknownFormat
from ..likeness import Likeness, Subject, measure
from ..models import EditableModel
from ..probe import SAME, probe, probe_distance
from .policy import Policy

VERSION = "1"
_NAMES = tuple(field.name for field in fields(Likeness))
_SMALL = ("references", "others")


def index_path(policy_path: str | Path) -> Path:
    """Where the index of a policy file is kept: beside it."""
    file = Path(policy_path)
    return file.with_name(file.name + ".index.safetensors")


def build_index(policy: Policy, model: EditableModel, progress: Callable[[int, int], None] | None = None) -> Likeness:
    """Measure every rule; ``progress(done, total)`` may raise to stop."""
    subjects = [Subject(rule.concept.phrases, rule.concept.kind, rule.concept.preserve) for rule in policy]
    return _rounded(measure(model, subjects, progress))


def save_index(index: Likeness, path: str | Path, policy: Policy, model: EditableModel) -> Path:
    """Write it, all or nothing. Raises CannotWrite."""
    tensors = {name: getattr(index, name) for name in _NAMES}
    stored = {name: t.half() if name in _SMALL else t for name, t in tensors.items()}
    data = save({name: t.contiguous() for name, t in stored.items()}, _facts(policy, model))
    return write_bytes(Path(path), data)


def load_index(path: str | Path, policy: Policy, model: EditableModel) -> Likeness | None:
    """The index in a file; None if it is of another policy or text encoder. Raises UnknownFormat for a damaged one."""
    file = Path(path)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
            if not _fits(facts, _facts(policy, model)):
                return None
            tensors = {name: opened.get_tensor(name) for name in _NAMES}
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise UnknownFormat(f"The index {file.name} cannot be read: {error}. Delete it; it is built again.") from error
    return Likeness(**{name: t if t.dtype == torch.long else t.float() for name, t in tensors.items()})


def ready_index(
    path: str | Path, policy: Policy, model: EditableModel, progress: Callable[[int, int], None] | None = None
) -> Likeness:
    """The index in the file ``path`` if it fits, else a new one, which is saved there."""
    if Path(path).exists():
        found = load_index(path, policy, model)
        if found is not None:
            return found
    built = build_index(policy, model, progress)
    save_index(built, path, policy, model)
    return built


def _rounded(index: Likeness) -> Likeness:
    """As it will be when it has been stored and read."""
    values = {name: getattr(index, name) for name in _NAMES}
    half = {name: values[name].half() for name in _SMALL}
    return Likeness(**{n: t if t.dtype == torch.long else t.float() for n, t in {**values, **half}.items()})


def _facts(policy: Policy, model: EditableModel) -> dict[str, str]:
    return {"membrane.index": VERSION, "policy": policy.fingerprint, "probe": json.dumps(probe(model), sort_keys=True)}


def _fits(facts: dict[str, str], wanted: dict[str, str]) -> bool:
    """Same version and policy, and the same encoder up to a change of precision."""
    if any(facts.get(name) != wanted[name] for name in ("membrane.index", "policy")):
        return False
    theirs, ours = json.loads(facts["probe"]), json.loads(wanted["probe"])
    return theirs.keys() == ours.keys() and all(probe_distance(theirs[s], ours[s]) <= SAME for s in ours)

"""Putting a policy in force on a graph's MODEL and CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..erasure_core.concepts import ConceptSet
from ..erasure_core.errors import BadInput, CannotWrite
from ..erasure_core.firewall import (
    Firewall,
    Policy,
    Rule,
    build_index,
    index_path,
    load_index,
    read_policy,
    save_index,
)
from ..erasure_core.likeness import Likeness
from . import host
from .firewall import NONE
from .model import HostModel
from .screening import Screen
from .stamp import stamped


@dataclass(frozen=True)
class Guarded:
    """Clones with the policy in force, and what to tell of it."""

    model: Any
    clip: Any
    screen: Screen
    policy: Policy
    family: str
    file: str
    note: str = ""


def guard(
    model: Any,
    clip: Any,
    file: str,
    sensitivity: float,
    vectors: bool,
    concepts: ConceptSet | None,
    node_id: str | None,
) -> Guarded:
    """The policy of ``file`` and the connected ``concepts`` on clones. Raises BadInput if both are missing."""
    path = host.policy_path(file)
    if path is None and (concepts is None or file != NONE):  # a policy that is gone must not be left out in silence
        what = f"'{file}' is not in models/{host.POLICIES}" if file != NONE else "no file is chosen"
        other = " and no concepts are connected" if concepts is None else ""
        raise BadInput(f"There is no policy: {what}{other}. Choose a file{' or connect Concepts' * bool(other)}.")
    policy = _policy(path, concepts, sensitivity)
    target = HostModel(model, clip, node_id)
    index, note = _index(policy, path if concepts is None else None, target, node_id) if vectors else (None, "")
    screen = Screen(Firewall(policy, target, index), node_id)
    guarded = host.clone(model)
    host.put_wrappers(guarded, screen, screen.around_sampling, screen.key)
    return Guarded(guarded, stamped(clip), screen, policy, target.family, "" if path is None else file, note)


def _policy(path: Path | None, concepts: ConceptSet | None, sensitivity: float) -> Policy:
    read = None if path is None else read_policy(path)
    if concepts is None:
        assert read is not None
        return read
    rules = tuple(Rule(concept, sensitivity) for concept in concepts)
    kept = concepts.preserve
    return Policy(rules + (() if read is None else read.rules), kept + (() if read is None else read.preserve))


def _index(policy: Policy, path: Path | None, target: HostModel, node_id: str | None) -> tuple[Likeness, str]:
    """The index beside the policy file, and what went wrong; for connected concepts it is made each time."""
    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or host.progress(total, node_id)
        bar(done)
        host.stop_if_asked()

    place = None if path is None else index_path(path)
    found = load_index(place, policy, target) if place is not None and place.exists() else None
    if found is not None:
        return found, ""
    built = build_index(policy, target, advance)
    if place is None:
        return built, ""
    try:
        save_index(built, place, policy, target)
    except CannotWrite as error:  # a folder that is shared and read-only
        return built, f"The index of the policy could not be saved, so it is made again in the next session: {error}"
    return built, ""

"""Putting a policy in force on a graph's MODEL and CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..erasure_core.concepts import ConceptSet
from ..erasure_core.errors import BadInput
from ..erasure_core.firewall import Firewall, Policy, Rule, build_index, index_path, read_policy, ready_index
from ..erasure_core.likeness import Likeness
from . import host
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
    if path is None and concepts is None:
        raise BadInput(
            f"There is no policy: '{file}' is not in models/{host.POLICIES} and no concepts are connected. "
            "Choose a file or connect Concepts."
        )
    policy = _policy(path, concepts, sensitivity)
    target = HostModel(model, clip, node_id)
    index = _index(policy, path if concepts is None else None, target, node_id) if vectors else None
    screen = Screen(Firewall(policy, target, index), node_id)
    guarded = host.clone(model)
    host.put_wrappers(guarded, screen, screen.around_sampling, screen.key)
    return Guarded(guarded, stamped(clip), screen, policy, target.family, "" if path is None else file)


def _policy(path: Path | None, concepts: ConceptSet | None, sensitivity: float) -> Policy:
    read = None if path is None else read_policy(path)
    if concepts is None:
        assert read is not None
        return read
    rules = tuple(Rule(concept, sensitivity) for concept in concepts)
    kept = concepts.preserve
    return Policy(rules + (() if read is None else read.rules), kept + (() if read is None else read.preserve))


def _index(policy: Policy, path: Path | None, target: HostModel, node_id: str | None) -> Likeness:
    """The index beside the policy file; for connected concepts it is made each time, they are few."""
    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or host.progress(total, node_id)
        bar(done)
        host.stop_if_asked()

    if path is None:
        return build_index(policy, target, advance)
    return ready_index(index_path(path), policy, target, advance)

"""The concept firewall: a policy of many concepts, of which only those are erased that a prompt touches.

>>> from erasure_core.firewall import Firewall, parse_policy
>>> wall = Firewall(parse_policy("circle | disc -> square"), model)
>>> latents = model.sample(wall.encode(["a red circle"]), seed=7)
"""

from __future__ import annotations

from .files import HELP, parse_policy, read_policy, write_policy
from .firewall import COMBINE, Firewall, Touch, mapped_context, mapped_pooled
from .index import build_index, index_path, load_index, ready_index, save_index
from .policy import LARGEST, Policy, Rule
from .solve import MOST

__all__ = [
    "COMBINE",
    "HELP",
    "LARGEST",
    "MOST",
    "Firewall",
    "Policy",
    "Rule",
    "Touch",
    "build_index",
    "index_path",
    "load_index",
    "mapped_context",
    "mapped_pooled",
    "parse_policy",
    "read_policy",
    "ready_index",
    "save_index",
    "write_policy",
]

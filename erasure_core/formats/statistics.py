"""Rows of a solved problem inside a native file, so that the erasure can be joined exactly without its model.

``rows.<space>.erase`` and ``.anchors`` [m, d], ``.preserve`` [p, d] in fp32 as the text encoder gave them; weights
``.erase_weights`` [m], ``.preserve_weights`` [p] and the ``.ridge`` in fp64; ``.groups`` [m]: the concept of each row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput, UnknownFormat
from ..solver import EditProblem

PREFIX = "rows."
_KEY = re.compile(r"rows\.([A-Za-z0-9_-]+)\.(erase|anchors|preserve|erase_weights|preserve_weights|groups|ridge)")


def statistics_tensors(statistics: Mapping[str, Any]) -> dict[str, Tensor]:
    """Entries of the file for every space's problem. Raises BadInput if there is none."""
    if not statistics:
        raise BadInput(
            "This erasure has no rows to store: it was loaded from a file without them, or its method is not the "
            "solution of one problem. Erase again, or save it without statistics."
        )
    tensors: dict[str, Tensor] = {}
    for space, problem in statistics.items():
        rows = problem.rows
        parts = {
            "erase": rows.erase.float(),
            "anchors": rows.anchors.float(),
            "preserve": rows.preserve.float(),
            "erase_weights": rows.omega.double(),
            "preserve_weights": rows.omega_preserve.double(),
            "groups": rows.groups.float(),
            "ridge": torch.tensor(problem.effective_ridge, dtype=torch.float64),
        }
        tensors |= {f"{PREFIX}{space}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    return tensors


def read_statistics(tensors: Mapping[str, Tensor], file: str) -> dict[str, EditProblem]:
    """The problems in the entries ``rows.…`` of a file; raises UnknownFormat where they do not belong together."""
    spaces: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnknownFormat(f"{file} is damaged: {key} is no part of stored rows. Save or download it again.")
        spaces.setdefault(match.group(1), {})[match.group(2)] = tensor
    return {space: _problem(space, parts, file) for space, parts in sorted(spaces.items())}


def _problem(space: str, parts: Mapping[str, Tensor], file: str) -> EditProblem:
    try:
        return EditProblem(
            parts["erase"],
            parts["anchors"],
            parts["preserve"],
            float(parts["ridge"]),
            parts["erase_weights"],
            parts["preserve_weights"],
            parts["groups"].long(),
            space,
        )
    except (KeyError, BadInput, RuntimeError) as error:
        raise UnknownFormat(f"{file} is damaged: the rows of {space} do not belong together. Save it again.") from error

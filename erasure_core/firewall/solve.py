"""Maps for the few concepts that a prompt touches, solved together when it is read.

What is preserved is factored once for a text encoder (:class:`~erasure_core.prepared.Prepared`); the rows of a concept
are encoded when it is first touched and remembered. ``T(g) = I + D diag(g) Y`` with one joint ``Y``, so that concepts
touched at once do not disturb each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..closed_form.uce import OUR_SELECTOR, Settings, problems_of
from ..concepts import Concept
from ..embeddings import select_rows
from ..erasure import POOLED_SPACE, EmbeddingMap, MapFactor
from ..errors import BadInput
from ..models import EditableModel
from ..prepared import Prepared
from ..probe import PROMPTS
from .policy import Policy

MOST = 64  # concepts of one prompt
REMEMBERED = 512  # concepts whose rows are kept; some ten rows of 768 to 2048 numbers each


@dataclass(frozen=True)
class Rows:
    """Rows ``erase`` -> ``anchors`` [m, d] of one concept in one text space, with weights ``omega`` [m]."""

    erase: Tensor
    anchors: Tensor
    omega: Tensor


class Solver:
    """Maps for any few rules of ``policy``, in the text spaces of ``model``."""

    def __init__(self, policy: Policy, model: EditableModel) -> None:
        self._policy, self._model = policy, model
        self._prepared: Mapping[str, Prepared] | None = None
        self._rows: OrderedDict[int, Mapping[str, Rows]] = OrderedDict()

    def maps(self, gains: Mapping[int, float]) -> dict[str, EmbeddingMap]:
        """Text space -> map in fp32 for the rules in ``gains``, one or more. Raises BadInput for more than 64."""
        touched = sorted(gains)
        if len(touched) > MOST:
            raise BadInput(
                f"This prompt names {len(touched)} concepts of the policy; at most {MOST} are erased from one prompt. "
                "Shorten the prompt, or lower the sensitivity of broad rules."
            )
        if self._prepared is None:
            self._prepared = self._prepare()
        parts = [self._rows_of(number) for number in touched]
        weights = [gains[number] for number in touched]
        return {
            space: _joint(known, [part[space] for part in parts], weights) for space, known in self._prepared.items()
        }

    def _rows_of(self, number: int) -> Mapping[str, Rows]:
        if number not in self._rows:
            self._rows[number] = _rows(self._model, self._policy.rules[number].concept)
        self._rows.move_to_end(number)
        while len(self._rows) > REMEMBERED:
            self._rows.popitem(last=False)
        return self._rows[number]

    def _prepare(self) -> dict[str, Prepared]:
        """What our defaults of UCE preserve, and their ridge for texts in general instead of one concept's rows."""
        everyday = [Concept(prompt) for prompt in PROMPTS]
        problems = problems_of(self._model, everyday, self._policy.preserve)
        return {
            space: Prepared(problem.rows.preserve, problem.rows.omega_preserve, problem.effective_ridge, space)
            for space, problem in problems.items()
        }


def _rows(model: EditableModel, concept: Concept) -> dict[str, Rows]:
    """The rows to erase and, led to themselves with weight 1, those of the concept's neighbours."""
    found = {}
    for space, problem in problems_of(model, [concept], ()).items():
        rows, kept = problem.rows, problem.rows.erase[:0]
        if concept.preserve:
            selector = "POOLED" if space == POOLED_SPACE else OUR_SELECTOR[Settings().generation]
            kept = select_rows(model, concept.preserve, selector).double()
        found[space] = Rows(
            torch.cat([rows.erase, kept]),
            torch.cat([rows.anchors, kept]),
            torch.cat([rows.omega, torch.ones(len(kept)).double()]),
        )
    return found


def _joint(prepared: Prepared, parts: Sequence[Rows], gains: Sequence[float]) -> EmbeddingMap:
    """``I + D diag(g) Y`` with the gains in ``D``; rows that stay where they are shape ``Y`` and are then left out."""
    erase, anchors = torch.cat([part.erase for part in parts]), torch.cat([part.anchors for part in parts])
    up, down = prepared.factors(erase, anchors, torch.cat([part.omega for part in parts]))
    up = up * torch.repeat_interleave(torch.tensor(gains).double(), torch.tensor([len(part.erase) for part in parts]))
    moved = up.any(dim=0)
    factor = MapFactor(down[moved].float().contiguous(), up[:, moved].float().contiguous())
    return EmbeddingMap(prepared.space, (factor,))

"""Closed-form refinement of MACE (arXiv 2403.06135, CVPR 2024, Eq. 1-2): clean the words around a concept.

In a sentence with the concept, every row but the concept's own words (SURR) moves to the row of the same sentence with
the anchor in place; the concept's words stay, so that names that share a word with it survive. What is to be kept
enters as one Gram matrix of captions. MACE then trains a LoRA per concept and fuses them, see :mod:`..fusion`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet
from ..erasure import POOLED_SPACE, Erasure
from ..models import EditableModel
from ..options import number
from ..solver import Solved
from ..summed import Problem, problem_of
from ..sums import RowSums
from ..templates import contexts
from .common import PROTECT, Job, Shared
from .gram import caption_gram

NAME = "mace"
SUMMARY = "Cleans the words around a concept and spares the concept's own; the ground for fusing LoRAs, weak by itself."
WHY = """\
Our defaults differ from the published ones; --parity brings those back, with our own thirty sentences per kind in both.
- The published settings keep 617,000 photo captions as one Gram matrix, which we do not ship. Your kept phrases take
  their place: give captions of what your pictures usually show. The empty prompt and start token are protected.
- The published preserve scale is squared by a slip of the code, and its ridge is 0 or absolute. Here the ridge is a
  multiple of the rows' mean square per dimension (lamb) and the scale counts once.
The concept's own word stays, so that other names with that word survive - and so that the concept may survive, too: on
the bundled model a circle is still drawn in 21 of 32 pictures, a star in 1, red in none. MACE then trains a LoRA per
concept; fusion.fuse joins such LoRAs, or any others, on top of this refinement.
"""
SELECTION = "SURR"
JUDGED = 512


@dataclass(frozen=True)
class Settings(Shared):
    """Options of MACE's refinement under their official names."""

    lamb: float | None = number(None, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    preserve_scale: float | None = number(None, 0.0, 1000.0, "weight of what is kept; with parity it counts squared")
    preserve_weight: float | None = number(None, 0.0, 1e7, "with parity: further weight of the kept phrases")
    protect: float = number(PROTECT, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")


# lamb, preserve_scale and preserve_weight of the published configurations: object (the ship's; automobile and bird have
# lamb 1e2 and 1e1), one celebrity, a hundred styles, explicit content
_OFFICIAL: Mapping[str, tuple[float, float, float]] = {
    "object": (1e3, 0.0, 0.0),
    "character": (0.0, 1e-4, 8e3),
    "person": (0.0, 1e-4, 8e3),
    "style": (0.0, 1e-4, 8e4),
    "safety": (0.0, 7e-7, 0.0),
}


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    job = Job.of(model, concepts, settings, parity, neutrals)
    anchors = job.anchors()
    pairs = job.pairs(anchors, _contexts)
    problem = _official if parity else _ours
    solved = {}
    for space in job.spaces:
        answer = problem(job, settings, space, job.gathered(space, pairs, SELECTION)).solved()
        solved[space] = _with_subject_drift(job, answer, space, pairs)
    return job.finish(NAME, solved, anchors, SELECTION, _contexts)


def _contexts(concept: Concept) -> tuple[str, ...]:
    return contexts(concept.kind)


def _official(job: Job, settings: Settings, space: str, rows: RowSet | RowSums) -> Problem:
    """The published weights; the preserve scale counts twice, as in the code. Kinds of the first concept decide."""
    lamb, scale, weight = (
        official if given is None else given
        for official, given in zip(
            _OFFICIAL[job.concepts[0].kind],
            (settings.lamb, settings.preserve_scale, settings.preserve_weight),
            strict=True,
        )
    )
    gram = scale**2 * weight * caption_gram(job.model, space, job.kept) if job.kept else None
    return problem_of(rows, lamb, space, preserve_gram=gram)


def _ours(job: Job, settings: Settings, space: str, rows: RowSet | RowSums) -> Problem:
    """The empty prompt protected as in uce, the kept phrases as one Gram matrix."""
    lamb = 0.5 if settings.lamb is None else settings.lamb
    keep = 1.0 if settings.preserve_scale is None else settings.preserve_scale
    base = replace(job, kept=()).problem(space, rows, lamb, "ALL77", settings.protect)
    return replace(base, preserve_gram=keep * caption_gram(job.model, space, job.kept)) if job.kept else base


def _with_subject_drift(job: Job, answer: Solved, space: str, pairs: Sequence[Pair]) -> Solved:
    """Notes how far the concept's own last words, which should stay, are moved: mean |T c - c| / |c|.

    Of more than :data:`JUDGED` sentences an evenly spaced part is judged, each of which has to be encoded again.
    """
    if space == POOLED_SPACE:
        return answer
    own = job.rows(space, pairs[:: math.ceil(len(pairs) / JUDGED)], "LAST").erase.double()
    moved = (own @ answer.down.T @ answer.up.T).norm(dim=1) / own.norm(dim=1)
    return replace(answer, notes={"subject_drift": float(f"{float(moved.mean()):.3g}")})

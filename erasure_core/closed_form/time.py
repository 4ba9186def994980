"""Text-to-Image Model Editing (TIME, arXiv 2303.08084, ICCV 2023): every token's row moves to its counterpart's.

The oldest of the family: Eq. 4 is the shared solve without anything to preserve. It was made for assumptions (a rose is
blue: "rose -> blue rose") rather than for erasing; both are one formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..concepts import Concept, ConceptSet
from ..erasure import Erasure
from ..models import EditableModel
from ..options import flag, number
from ..summed import Problem, problem_of
from ..templates import BARE
from .common import PROTECT, Job, Shared, our_sentences

NAME = "time"
SUMMARY = "Makes the model assume something it was not told: 'rose -> blue rose'. Erases, too, more broadly than uce."
WHY = """\
Our defaults differ from the published ones; --parity brings those back.
- Nothing is preserved in the published method and its ridge is small. We protect the empty prompt with the start token
  and keep the phrases you name, as in uce.
- The ridge is a multiple of the rows' mean square per dimension, so it means the same for every text encoder (lamb).
- Instead of the three published sentences we use our own (with_augs).
- Words of the old prompt that the new one lacks stop the published script. Here they are paired from the last one
  backwards, so that 'circle -> square' works like 'rose -> blue rose'.
All 77 rows of a prompt are edited, padding included. On the bundled model that erases as well as uce (circle, star and
red: 0 of 32 pictures each) and keeps as much. ReFACT (arXiv 2306.00738), by the same group, moves one vector inside the
text encoder by one rank-one step, W' = W + (v - W k) u^T / (k^T u); it changes no text row by itself and is not this.
"""
AUGMENTED = ("{}", "A photo of {}", "An image of {}", "A picture of {}")


@dataclass(frozen=True)
class Settings(Shared):
    """Options of TIME under their official names."""

    lamb: float | None = number(None, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    with_to_k: bool = flag(True, "edit keys, too, not only values")
    with_augs: bool = flag(True, "also edit the concept inside sentences (with parity the three published ones)")
    preserve_scale: float = number(1.0, 0.0, 1000.0, "weight of preserved rows; the published method preserves nothing")
    protect: float = number(PROTECT, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Edit ``model``'s reading of ``concepts``; see :func:`erasure_core.erase`."""
    job = Job.of(model, concepts, settings, parity, neutrals)
    anchors = job.anchors()

    def templates(concept: Concept) -> tuple[str, ...]:
        if not settings.with_augs:
            return BARE
        return AUGMENTED if parity else our_sentences(concept)

    pairs = job.pairs(anchors, templates)
    problems: dict[str, Problem] = {}
    for space in job.spaces:
        rows = job.gathered(space, pairs, "MATCHED")
        if parity:
            lamb = 0.1 if settings.lamb is None else settings.lamb
            problems[space] = problem_of(rows, lamb, space)
        else:
            lamb = 0.5 if settings.lamb is None else settings.lamb
            problems[space] = job.problem(space, rows, lamb, "ALL77", settings.protect, settings.preserve_scale)
    return job.finish(NAME, problems, anchors, "MATCHED", templates, applies="kv" if settings.with_to_k else "v")

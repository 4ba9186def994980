"""CRCE (arXiv 2503.14232, BMVC 2025) in closed form: other names of a concept go, look-alikes stay, by certainty.

The paper asks a language model for coreferents (names of the same thing) and retains (similar things that must stay),
each with a certainty, and trains with the certainties as weights of the terms. Here they are weights of rows in one
solve: ``sum w |W' c - W a|^2 + sum w' |(W' - W) r|^2``, w = 1 for the concept, ``alpha`` times the certainty for its
coreferents, w' = ``beta`` times the certainty for its retains. Nothing is asked of a model: the names stand in a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair
from ..erasure import Erasure
from ..models import EditableModel
from ..options import flag, number, table
from ..summed import Problem, problem_of
from ..tables import read_table
from ..templates import BARE
from .common import PROTECT, Job, Shared, our_sentences
from .coreference import Names, names_of

NAME = "crce"
SUMMARY = "Erases a concept with its other names and keeps its look-alikes, from a table that you can edit."
WHY = """\
The published method trains; this is its idea in one solve, so there are no published settings to follow: --parity means
bare words, one row each, and an absolute ridge; the empty prompt stays protected (protect=0 leaves it out).
Copy the table (erasure_core/closed_form/tables/coreference.json), add your concepts, and give its path as table=FILE. A
certainty is a number up to 1 or one of the paper's five words. What you preserve is never erased as a coreferent, and
what you erase is never kept as a retain. Names that a text encoder hardly knows do more harm than good: leave them out.
Sentences, the end-of-text row, the protected empty prompt and relative units are as in uce.
"""
TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Settings(Shared):
    """Options of closed-form CRCE, ranges included; alpha and beta are the paper's."""

    table: str = table("coreference", "coreferents and retains by concept")
    alpha: float = number(1.0, 0.0, 1000.0, "weight of a certain coreferent, times the concept's")
    beta: float = number(1.0, 0.0, 1000.0, "weight of a certain retain")
    preserve_scale: float = number(1.0, 0.0, 1000.0, "weight of preserved rows")
    lamb: float = number(0.5, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    protect: float = number(PROTECT, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")
    expand_prompts: bool | None = flag(None, "also erase inside sentences (not with parity)")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    job = Job.of(model, concepts, settings, parity, neutrals)
    anchors = job.anchors()
    given: Any = settings.table
    content = read_table(given, TABLES, "table of coreferents") if isinstance(given, str) else given
    names = names_of(content, job.concepts, job.kept, anchors)
    used: Any = {"concepts": {c.target: own.entry() for c, own in zip(job.concepts, names, strict=True)}}
    job = replace(job, settings=replace(settings, table=used))
    expand = not parity if settings.expand_prompts is None else settings.expand_prompts

    def sentences(concept: Concept) -> tuple[str, ...]:
        return our_sentences(concept) if expand else BARE

    pairs = job.pairs(anchors, sentences)
    for group, (concept, own) in enumerate(zip(job.concepts, names, strict=True)):
        for name, certainty in own.coreferents.items():
            like = replace(concept, target=name, aliases=(), anchor="", preserve=())
            others = replace(job, concepts=(like,)).pairs([anchors[group]], sentences, settings.alpha * certainty)
            pairs += [replace(pair, group=group) for pair in others]
    selector = "LAST" if parity else "LAST+EOT"
    problems = {space: _problem(job, settings, space, pairs, names, selector) for space in job.spaces}
    made = job.finish(NAME, problems, anchors, selector, sentences)
    return replace(made, gate=_gate(made, names))


def _problem(job: Job, settings: Settings, space: str, pairs: list[Pair], names: list[Names], selector: str) -> Problem:
    rows = job.gathered(space, pairs, selector)
    ridge = settings.lamb * (1.0 if job.parity else rows.mean_square)
    protect = settings.protect * rows.mean_weight
    stay, weights = job.protected(space, selector, protect, settings.preserve_scale)
    retains = [
        Pair(name, name, weight=settings.beta * certainty) for own in names for name, certainty in own.retains.items()
    ]
    if retains:
        found = job.rows(space, retains, selector)
        stay, weights = torch.cat([stay, found.erase]), torch.cat([weights, found.weights])
    return problem_of(rows, ridge, space, stay, weights)


def _gate(made: Erasure, names: list[Names]) -> dict[str, list[str]]:
    """Coreferents are phrases to react to, retains are neighbours."""
    phrases = [*made.gate["phrases"], *(name for own in names for name in own.coreferents)]
    neighbours = [*made.gate["neighbours"], *(name for own in names for name in own.retains)]
    return {"phrases": list(dict.fromkeys(phrases)), "neighbours": list(dict.fromkeys(neighbours))}

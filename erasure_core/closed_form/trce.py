"""TRCE, stage 1 (arXiv 2503.07389, ICCV 2025): the end-of-text row is moved, the words themselves can be left alone.

The end-of-text row sums up the whole prompt. Prompts with the concept are mapped there onto the same prompts with the
anchor (paper, section 3.2): ``min sum |W' e - W a|^2 / n + eta sum |(W' - W) p|^2`` over pairs of end-of-text rows, one
solve for all layers. Stage 2 trains and is no part of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet, Text, encode_texts
from ..erasure import POOLED_SPACE, Erasure
from ..models import EditableModel
from ..options import choice, number
from ..solver import EditProblem
from ..summed import Problem
from ..templates import contexts
from .common import PROTECT, Job, Shared
from .gram import caption_gram

NAME = "trce"
SUMMARY = "Learns from many sentences and moves the end-of-text row, which sums them up: for themes with many wordings."
WHY = """\
Give synonyms and related phrases as aliases: the method learns from many wordings, the published one from twenty.
Our defaults differ from the published ones where those hurt; --parity brings them back.
- The end-of-text row is found by the tokenizer. The published code counts blanks, and edits the row of a word wherever
  a word of the prompt has several tokens.
- The concept's own last token is moved with it, as the published weight of keywords allows (rows). On the bundled model
  the end-of-text row alone removes stars and colours but leaves two circles in three; with rows=EOT words stay.
- Kept phrases and the empty prompt stay; the published code keeps a cache of captions with a weight of 1e-8 or less.
- A ridge in units of the rows' mean square per dimension; the published one is 0, which single precision cannot solve.
"""


@dataclass(frozen=True)
class Settings(Shared):
    """Options of TRCE's first stage, ranges included."""

    rows: str = choice(
        "auto", ("auto", "EOT", "EOT+PADS", "LAST+EOT"), "which rows move; auto: LAST+EOT, with parity EOT"
    )
    num_templates: int = number(15, 1, 30, "sentences around each phrase", whole=True)
    preserve_scale: float | None = number(None, 0.0, 1000.0, "weight of a kept phrase; 0.01 with parity, squared there")
    lamb: float | None = number(None, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    protect: float = number(PROTECT, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    job = Job.of(model, concepts, settings, parity, neutrals)

    def around(concept: Concept) -> tuple[str, ...]:
        return contexts(concept.kind)[: settings.num_templates]

    def guide(concept: Concept) -> str:
        return "art" if concept.kind == "style" else job.anchor(concept)

    anchors = job.anchors(guide if parity else None)
    pairs = job.pairs(anchors, around)
    selector = settings.rows if settings.rows != "auto" else "EOT" if parity else "LAST+EOT"
    make = _published if parity else _ours
    problems = {space: make(job, settings, space, pairs, selector) for space in job.spaces}
    return job.finish(NAME, problems, anchors, selector, around)


def _ours(job: Job, settings: Settings, space: str, pairs: Sequence[Pair], selector: str) -> Problem:
    rows = job.gathered(space, pairs, selector)
    lamb = 0.5 if settings.lamb is None else settings.lamb
    keep = 1.0 if settings.preserve_scale is None else settings.preserve_scale
    return job.problem(space, rows, lamb, selector, settings.protect, keep)


def _published(job: Job, settings: Settings, space: str, pairs: Sequence[Pair], selector: str) -> EditProblem:
    """Means over the prompts, all rows of the kept prompts with the squared scale, no ridge but the solver's least."""
    by_words = selector == "EOT" and space != POOLED_SPACE
    rows = _by_counting_words(job.model, pairs) if by_words else job.rows(space, pairs, selector)
    scale = 0.01 if settings.preserve_scale is None else settings.preserve_scale
    gram = scale**2 / len(job.kept) * caption_gram(job.model, space, job.kept) if job.kept else None
    ridge = 0.0 if settings.lamb is None else settings.lamb
    shares = rows.weights / len(pairs)
    return EditProblem(rows.erase, rows.anchors, None, ridge, shares, None, rows.groups, space, preserve_gram=gram)


def _by_counting_words(model: EditableModel, pairs: Sequence[Pair]) -> RowSet:
    """The official code's "end-of-text" row: as many rows after the start token as the prompt has words, and one."""
    texts = encode_texts(model, [prompt for pair in pairs for prompt in (pair.prompt, pair.anchor)])

    def index(text: Text) -> int:
        return min(len(text.prompt.split()) + 1, len(text.ids) - 1)

    olds, news = [texts[pair.prompt] for pair in pairs], [texts[pair.anchor] for pair in pairs]
    return RowSet(
        torch.stack([text.rows[index(text)] for text in olds]),
        torch.stack([text.rows[index(text)] for text in news]),
        torch.tensor([pair.weight for pair in pairs], dtype=torch.float64),
        torch.tensor([pair.group for pair in pairs]),
        tuple(text.prompt for text in olds),
        torch.tensor([(number, index(text), text.ids[index(text)]) for number, text in enumerate(olds)]),
    )

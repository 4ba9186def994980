"""RealEra's closed form (arXiv 2410.09140): a concept is erased together with its neighbourhood in the text space.

The paper perturbs the concept's row e to rows x with cos(e, x) in [low, high] and maps those onto the anchor, too; rows
beyond, with a cosine below ``low``, must stay. Both sets are isotropic around e, so their sums have closed forms and
nothing needs to be drawn: for ``x = |e| (cos t e' + sin t u)``, e' = e / |e| and u uniform at right angles to it,
``E[x] = E[cos t] e`` and ``E[x x^T] = |e|^2 (E[cos^2 t] e' e'^T + E[sin^2 t] (I - e' e'^T) / (d - 1))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet
from ..erasure import Erasure
from ..errors import BadInput
from ..models import EditableModel
from ..options import choice, flag, number, table
from ..solver import EditProblem
from ..summed import Problem, problem_of
from ..sums import RowSums
from ..tables import read_table
from ..templates import BARE
from .common import PROTECT, Job, Shared, our_sentences
from .neighbours import around, moments, nearest_words

NAME = "realera"
SUMMARY = "Erases a concept with its neighbourhood: words that mean nearly the same go, too, unless you preserve them."
WHY = """\
Our defaults differ from the published ones where those hurt; --parity brings them back, with the numbers of the only
public re-implementation (the paper's own are not known) and exact expectations in the place of random draws.
- Random neighbours lie in all directions alike, so erasing them shrinks everything a text can say. We erase only their
  part along the concept (neighbours=along): more weight on the concept, and the rows beyond are one more ridge.
- What is worth finding are real words: the nearest of a list (vocabulary) are erased like aliases. Words you preserve,
  anchors and other concepts are never taken. The recipe names the words that were found.
- Sentences, the end-of-text row, the protected empty prompt and relative units are as in uce.
"""
TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Settings(Shared):
    """Options of RealEra's closed form, ranges included."""

    neighbours: str = choice(
        "auto", ("auto", "along", "whole", "words", "along+words"), "what is erased; auto: along+words, parity: whole"
    )
    low: float = number(0.5, 0.0, 1.0, "least cosine of a neighbour that is not a word")
    high: float = number(0.9, 0.0, 1.0, "largest cosine of a neighbour")
    neighbour_scale: float = number(1.0, 0.0, 1000.0, "weight of the neighbours of a row, times the row's own")
    beyond_scale: float = number(1.0, 0.0, 1000.0, "weight of the rows beyond, which must stay")
    samples: int = number(5, 0, 100, "words to find for each concept", whole=True)
    nearness: float = number(0.7, -1.0, 1.0, "least cosine of a word, after taking off what all words share")
    vocabulary: str = table("words", "words to choose from, a JSON list")
    preserve_scale: float = number(1.0, 0.0, 1000.0, "weight of preserved rows")
    lamb: float = number(0.5, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    protect: float = number(PROTECT, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")
    expand_prompts: bool | None = flag(None, "also erase the concept inside sentences (not with parity)")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    if settings.low >= settings.high:
        raise BadInput(f"'low' ({settings.low:g}) must be below 'high' ({settings.high:g}).")
    job = Job.of(model, concepts, settings, parity, neutrals)
    anchors = job.anchors()
    auto = "whole" if parity else "along+words"
    kinds = auto if settings.neighbours == "auto" else settings.neighbours
    expand = not parity if settings.expand_prompts is None else settings.expand_prompts

    def sentences(concept: Concept) -> tuple[str, ...]:
        return our_sentences(concept) if expand else BARE

    pairs = job.pairs(anchors, sentences)
    found: list[list[str]] = []
    if "words" in kinds:
        found = _words(job, settings, anchors)
        by_concept: Any = {"found": {c.target: own for c, own in zip(job.concepts, found, strict=True)}}
        job = replace(job, settings=replace(settings, vocabulary=by_concept))
        pairs += _like_aliases(job, anchors, found, sentences, settings)
    selector = "LAST" if parity else "LAST+EOT"
    more = moments(settings.low, settings.high)[1] * settings.neighbour_scale if "along" in kinds else 0.0
    solved = {}
    for space in job.spaces:
        whole = kinds == "whole"
        rows = job.rows(space, pairs, selector) if whole else job.gathered(space, pairs, selector)
        plain = _plain(job, settings, space, rows, selector)
        problem = _whole(plain, settings) if whole else _along(plain, more, settings)
        solved[space] = replace(problem.solved(), problem=plain)
    made = job.finish(NAME, solved, anchors, selector, sentences)
    phrases = list(dict.fromkeys([*made.gate["phrases"], *(word for own in found for word in own)]))
    return replace(made, gate={**made.gate, "phrases": phrases})


def _words(job: Job, settings: Settings, anchors: Sequence[str]) -> list[list[str]]:
    """The words of the vocabulary nearest to each concept, a word with the concept that comes first."""
    given: Any = settings.vocabulary
    content = read_table(given, TABLES, "vocabulary") if isinstance(given, str) else given
    if isinstance(content, Mapping) and "found" in content:  # a recipe: these words and no others
        return [list(content["found"].get(concept.target, [])) for concept in job.concepts]
    words = content.get("words") if isinstance(content, Mapping) else content
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadInput('A vocabulary is a JSON list of words: ["disc", "ball"], or {"words": [...]}.')
    own = {phrase.casefold() for concept in job.concepts for phrase in concept.phrases}
    taken = own | {word.casefold() for word in (*job.kept, *anchors)}
    free = [word for word in words if word.strip() and word.casefold() not in taken]
    found, used = [], set[str]()
    for near in nearest_words(job.model, job.concepts, free, settings.nearness, settings.samples):
        found.append([word for word in near if word not in used])
        used.update(near)
    return found


def _like_aliases(
    job: Job, anchors: Sequence[str], found: Sequence[Sequence[str]], sentences: Any, settings: Settings
) -> list[Pair]:
    """The words found, mapped onto their concept's anchor; together they weigh ``neighbour_scale`` concepts."""
    pairs = []
    for group, (concept, words) in enumerate(zip(job.concepts, found, strict=True)):
        if words:
            like = replace(concept, target=words[0], aliases=tuple(words[1:]), anchor="", preserve=())
            made = replace(job, concepts=(like,)).pairs(
                [anchors[group]], sentences, settings.neighbour_scale / len(words)
            )
            pairs += [replace(pair, group=group) for pair in made]
    return pairs


def _plain(job: Job, settings: Settings, space: str, rows: RowSet | RowSums, selector: str) -> Problem:
    """The problem without neighbours; with parity absolute, without protection."""
    if not job.parity:
        return job.problem(space, rows, settings.lamb, selector, settings.protect, settings.preserve_scale)
    kept = job.kept_rows(space, job.kept, selector) if job.kept else None
    weights = None if kept is None else torch.full((len(kept),), settings.preserve_scale, dtype=torch.float64)
    return problem_of(rows, settings.lamb, space, kept, weights)


def _along(plain: Problem, more: float, settings: Settings) -> Problem:
    """The neighbours' part along each row, which makes it weigh ``more``; the rows beyond as so much more ridge."""
    across = 1 - moments(0.0, settings.low)[1]
    beyond = settings.beyond_scale * plain.energy * across / (plain.width - 1)
    return plain.heavier(1 + more, plain.ridge + beyond)


def _whole(plain: Problem, settings: Settings) -> EditProblem:
    """All neighbours and all rows beyond, as few rows that have the same sums.

    With m = E[cos t] and q = E[cos^2 t], ``|W' x - W a|^2`` is ``|W' m e - W a|^2 + |W' (x - m e)|^2`` on average: the
    row ``m e`` goes to the anchor, and the spread around it, q - m^2 along e and 1 - q across, to nothing.
    """
    rows = plain.rows
    mean, square = moments(settings.low, settings.high)
    beyond = moments(0.0, settings.low)[1]
    spread = torch.stack([around(row, square - mean**2, 1 - square) for row in rows.erase])
    neighbours = torch.cat([mean * rows.erase, spread.flatten(0, 1)])
    to = torch.cat([rows.anchors, torch.zeros_like(neighbours[len(rows.erase) :])])
    each = settings.neighbour_scale * rows.omega
    width = plain.width
    stay = torch.stack([around(row, beyond, 1 - beyond) for row in rows.erase]).flatten(0, 1)
    stay_weights = (settings.beyond_scale * rows.omega).repeat_interleave(width)
    return EditProblem(
        torch.cat([rows.erase, neighbours]),
        torch.cat([rows.anchors, to]),
        torch.cat([rows.preserve, stay]),
        plain.ridge,
        torch.cat([rows.omega, each, each.repeat_interleave(width)]),
        torch.cat([rows.omega_preserve, stay_weights]),
        torch.cat([rows.groups, rows.groups, rows.groups.repeat_interleave(width)]),
        plain.space,
    )

"""What closed-form methods share: settings that all of them have, and one call of a method in its canonical order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet, gather
from ..erasure import POOLED_SPACE, Erasure, WeightDelta
from ..errors import BadInput
from ..models import EditableModel
from ..options import flag, number
from ..solver import Solved
from ..summed import Problem, problem_of
from ..sums import RowSums
from ..templates import fill, sentences
from .build import concept_entries, finish

MOST = 2**26  # numbers of rows kept as they are, half a GB in float64; of more only sums are kept
PROTECT = 10.0  # weight of empty prompt and start token, times the mean weight of an erased row
Templates = Callable[[Concept], tuple[str, ...]]


@dataclass(frozen=True)
class Shared:
    """Options that every closed-form method has."""

    pooled: bool | None = flag(None, "SDXL: also edit the pooled text vector")
    exact: bool = flag(False, "keep every row of a concept, however many and alike they are")
    singular: int = number(
        0,
        0,
        64,
        "directions per concept closed for good, against texts made to bring it back; 0 none, 1 to 4 is sensible",
        whole=True,
    )


@dataclass(frozen=True)
class Job:
    """One call of a method: ``concepts`` and ``kept`` phrases are sorted, so that any order gives the same erasure."""

    model: EditableModel
    concepts: tuple[Concept, ...]
    kept: tuple[str, ...]
    settings: Shared
    parity: bool
    neutrals: Mapping[str, str]
    _found: dict[Any, Mapping[str, RowSet | RowSums]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        model: EditableModel,
        concepts: ConceptSet,
        settings: Shared,
        parity: bool,
        neutrals: Mapping[str, str] | None,
    ) -> Job:
        """From the arguments of a method's ``run``."""
        ordered = tuple(sorted(concepts, key=lambda c: (c.target, c.kind)))
        return cls(model, ordered, tuple(sorted(concepts.all_preserved)), settings, parity, neutrals or {})

    @property
    def spaces(self) -> tuple[str, ...]:
        """The text spaces to edit, the cross-attention space first; the pooled one if asked for (by default ours)."""
        pooled = not self.parity if self.settings.pooled is None else self.settings.pooled
        return tuple(space for space in self.model.spaces if pooled or space != POOLED_SPACE)

    def anchor(self, concept: Concept) -> str:
        """The anchor, or neutral words. Raises BadInput if those are what is to be erased."""
        anchor = concept.resolved_anchor(self.neutrals)
        if anchor.casefold() in map(str.casefold, concept.phrases):
            raise BadInput(f"'{anchor}' is itself the neutral word of its kind. Name an anchor for it.")
        return anchor

    def anchors(self, when_empty: Callable[[Concept], str] | None = None) -> list[str]:
        """What each concept is to become; ``when_empty`` says it for a concept without anchor."""
        return [
            self.anchor(c) if c.anchor or when_empty is None else when_empty(c)  # one line per concept
            for c in self.concepts
        ]

    def pairs(self, anchors: Sequence[str], templates: Templates, scale: float = 1.0, bare: bool = False) -> list[Pair]:
        """Every phrase in every sentence beside its anchor in the same sentence, or with ``bare`` by itself."""
        return [
            Pair(
                fill(template, phrase),
                anchor if bare else fill(template, anchor),
                phrase,
                anchor,
                scale * concept.weight,
                group,
            )
            for group, (concept, anchor) in enumerate(zip(self.concepts, anchors, strict=True))
            for phrase in concept.phrases
            for template in templates(concept)
        ]

    def rows(self, space: str, pairs: Sequence[Pair], selector: str) -> RowSet:
        """Rows to move in ``space``, however many; the pooled space has one per prompt."""
        found = self._gathered(space, pairs, selector, sys.maxsize)
        assert isinstance(found, RowSet)
        return found

    def gathered(self, space: str, pairs: Sequence[Pair], selector: str) -> RowSet | RowSums:
        """:meth:`rows`, or their sums where they are too many to be kept."""
        return self._gathered(space, pairs, selector, MOST)

    def _gathered(self, space: str, pairs: Sequence[Pair], selector: str, most: int) -> RowSet | RowSums:
        """Those of all spaces are gathered at once, because every text has to be encoded for it."""
        key = (tuple(pairs), selector, most)
        if key not in self._found:
            each = {own: "POOLED" if own == POOLED_SPACE else selector for own in self.spaces}
            self._found[key] = gather(self.model, pairs, each, most)
        return self._found[key][space]

    def kept_rows(self, space: str, phrases: Sequence[str], selector: str) -> Tensor:
        """Rows [p, d] of phrases that stay as they are."""
        return self.rows(space, [Pair(phrase, phrase) for phrase in sorted(set(phrases))], selector).erase

    def problem(
        self,
        space: str,
        rows: RowSet | RowSums,
        lamb: float,
        selector: str,
        protect: float = PROTECT,
        keep: float = 1.0,
    ) -> Problem:
        """Our usual problem: relative ridge; empty prompt and start token protected; kept phrases with weight ``keep``.

        ``selector``: which rows of the kept phrases.
        """
        preserve, weights = self.protected(space, selector, protect * rows.mean_weight, keep)
        return problem_of(rows, lamb * rows.mean_square, space, preserve, weights)

    def protected(self, space: str, selector: str, empty_weight: float, keep: float) -> tuple[Tensor, Tensor]:
        """Rows that must stay and their weights: the kept phrases', and the empty prompt's, which share its weight."""
        empty = self.kept_rows(space, [""], "ALL77")
        weights = torch.full((len(empty),), empty_weight / len(empty)).double()
        if not self.kept:
            return empty, weights
        stay = self.kept_rows(space, self.kept, selector)
        return torch.cat([stay, empty]), torch.cat([torch.full((len(stay),), keep).double(), weights])

    def finish(
        self,
        name: str,
        problems: Mapping[str, Problem | Solved],
        anchors: Sequence[str],
        selection: str,
        templates: Templates,
        deltas: Mapping[str, WeightDelta] | None = None,
        applies: str = "kv",
    ) -> Erasure:
        """The erasure with a recipe that gives it again; see :func:`.build.finish`."""
        solved = [p.problem if isinstance(p, Solved) else p for p in problems.values()]
        recipe = {
            "method": name,
            "concepts": concept_entries(self.concepts, anchors),
            "preserve": list(self.kept),
            "options": self._options(),
            "parity": self.parity,
            "selection": selection,
            "templates": sorted({t for c in self.concepts for t in templates(c)}),
            "ridge": max(problem.effective_ridge for problem in solved),
            "seeds": [],
        }
        gate = {"phrases": [p for c in self.concepts for p in c.phrases], "neighbours": list(self.kept)}
        return finish(self.model, problems, recipe, gate, self.settings.exact, deltas, applies)

    def _options(self) -> dict[str, Any]:
        """What differs from the defaults."""
        usual = asdict(type(self.settings)())
        return {name: value for name, value in asdict(self.settings).items() if value != usual[name]}


def our_sentences(concept: Concept) -> tuple[str, ...]:
    """Our sentences for the concept's kind."""
    return sentences(concept.kind)

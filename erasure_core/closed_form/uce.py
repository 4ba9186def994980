"""Unified Concept Editing (UCE, arXiv 2308.14761, WACV 2024) in one solve for all layers.

Two published generations differ in which rows they edit: 2025 the last subject token of each phrase (LAST), 2023 that
token and everything after it, padding included (TAIL). ``parity=True`` follows their defaults and quirks to the letter.
Our own defaults are explained in :data:`WHY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet, select_pairs, select_rows
from ..erasure import POOLED_SPACE, Erasure, WeightDelta, cross_attention_names
from ..errors import BadInput
from ..models import EditableModel
from ..options import choice, flag, number
from ..solver import EditProblem
from ..templates import BARE, fill, sentences, uce_templates
from .build import concept_entries, finish

NAME = "uce"
SUMMARY = "Replaces a concept by its anchor in a fraction of a second; the first thing to try."
WHY = """\
Our defaults differ from the published ones where those hurt; --parity brings them back.
- The hosts encode the empty negative prompt, and the start token is the same vector in every prompt, so an edit that
  moves them moves every picture. Both are preserved, together with ten times the mean weight of an erased row
  (protect).
- Without an anchor the published code maps the concept onto the start token's row, which has no content and must not be
  disturbed. We use neutral words in the same sentence.
- The ridge is a multiple of the rows' mean square per dimension, so it means the same for every text encoder; 0.5 is
  about 0.5 absolute on Stable Diffusion 1 (lamb).
- A concept stands inside sentences in real prompts, so it is erased inside a few sentences, too (expand_prompts).
- Beside the concept's last token the first end-of-text row is edited: it sums up the whole prompt and, left alone,
  still names the concept.
"""
SELECTOR = {"2025": "LAST", "2023": "TAIL"}
OUR_SELECTOR = {"2025": "LAST+EOT", "2023": "TAIL"}


@dataclass(frozen=True)
class Settings:
    """Options of UCE under their official names, ranges included."""

    generation: str = choice("2025", ("2025", "2023"), "which published script: last subject token, or it and the rest")
    technique: str = choice(
        "replace", ("replace", "tensor"), "2023 only: aim at the anchor, or remove the concept's component per layer"
    )
    mode: str = choice(
        "erase",
        ("erase", "moderate", "replace"),
        "erase: to the anchor or neutral words; moderate: to the empty prompt; replace: to an anchor you must give",
    )
    erase_scale: float = number(1.0, 0.0, 1000.0, "weight of erased rows")
    preserve_scale: float | None = number(None, 0.0, 1000.0, "weight of preserved rows")
    lamb: float = number(0.5, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    expand_prompts: bool | None = flag(None, "also erase the concept inside sentences (with parity the published ones)")
    protect: float | None = number(None, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")
    pooled: bool | None = flag(None, "SDXL: also edit the pooled text vector")
    exact: bool = flag(False, "keep every row of a concept, however many and alike they are")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    ordered = sorted(concepts, key=lambda c: (c.target, c.kind))  # any order of input gives the same erasure
    setup = _Setup(settings, parity, neutrals or {})
    pairs, anchors = setup.pairs(ordered)
    kept = tuple(sorted(concepts.all_preserved))
    solvable = setup.problems(model, pairs, kept)
    problems = {space: problem for space, (problem, _) in solvable.items()}
    recipe = {
        "method": NAME,
        "concepts": concept_entries(ordered, anchors),
        "preserve": list(kept),
        "options": {k: v for k, v in asdict(settings).items() if v != getattr(Settings(), k)},
        "parity": parity,
        "selection": setup.selector,
        "templates": sorted({t for c in ordered for t in setup.templates(c)}),
        "ridge": max(problem.effective_ridge for problem in problems.values()),
        "seeds": [],
    }
    gate = {"phrases": [p for c in ordered for p in c.phrases], "neighbours": list(kept)}
    deltas = None
    if settings.technique == "tensor":
        if settings.generation != "2023":
            raise BadInput("technique=tensor belongs to generation=2023. Set both, or use technique=replace.")
        deltas = _tensor_deltas(model, problems, {space: rows for space, (_, rows) in solvable.items()})
    return finish(model, problems, recipe, gate, settings.exact, deltas)


def problems_of(model: EditableModel, concepts: Sequence[Concept], kept: tuple[str, ...]) -> dict[str, EditProblem]:
    """Text space -> what our defaults solve there for ``concepts``; ``groups`` are their numbers."""
    setup = _Setup(Settings(), False, model.neutrals)
    solvable = setup.problems(model, setup.pairs(concepts)[0], kept)
    return {space: problem for space, (problem, _) in solvable.items()}


@dataclass(frozen=True)
class _Setup:
    settings: Settings
    parity: bool
    neutrals: Mapping[str, str]

    @property
    def selector(self) -> str:
        return (SELECTOR if self.parity else OUR_SELECTOR)[self.settings.generation]

    @property
    def pooled(self) -> bool:
        return not self.parity if self.settings.pooled is None else self.settings.pooled

    def templates(self, concept: Concept) -> tuple[str, ...]:
        expand = not self.parity if self.settings.expand_prompts is None else self.settings.expand_prompts
        if not expand:
            return BARE
        return uce_templates(concept.kind) if self.parity else sentences(concept.kind)

    def pairs(self, concepts: Sequence[Concept]) -> tuple[list[Pair], list[str]]:
        """Every phrase of every concept in every sentence, beside what it is to become."""
        pairs, anchors = [], []
        for group, concept in enumerate(concepts):
            anchor = self.anchor(concept)
            anchors.append(anchor)
            weight = self.settings.erase_scale * concept.weight
            for phrase in concept.phrases:
                for template in self.templates(concept):
                    # the published scripts put only the concept into the sentences, the guide stays a bare phrase
                    to = anchor if self.parity or self.settings.mode == "moderate" else fill(template, anchor)
                    pairs.append(Pair(fill(template, phrase), to, phrase, anchor, weight, group))
        return pairs, anchors

    def anchor(self, concept: Concept) -> str:
        mode = self.settings.mode
        if mode == "replace" and not concept.anchor:
            raise BadInput(f"mode=replace needs an anchor for '{concept.target}': write '{concept.target} -> anchor'.")
        if mode == "moderate":
            return ""
        if concept.anchor or not self.parity:
            anchor = concept.resolved_anchor(self.neutrals)
            if anchor.casefold() in map(str.casefold, concept.phrases):
                raise BadInput(f"'{anchor}' is itself the neutral word of its kind. Name an anchor for it.")
            return anchor
        if self.settings.generation == "2023":
            return " "
        return "art" if concept.kind == "style" else ""

    def problems(
        self, model: EditableModel, pairs: Sequence[Pair], kept: tuple[str, ...]
    ) -> dict[str, tuple[EditProblem, RowSet]]:
        spaces = [space for space in model.spaces if space != POOLED_SPACE or self.pooled]
        return {space: self.problem(model, space, pairs, kept) for space in spaces}

    def problem(
        self, model: EditableModel, space: str, pairs: Sequence[Pair], kept: tuple[str, ...]
    ) -> tuple[EditProblem, RowSet]:
        selector = "POOLED" if space == POOLED_SPACE else self.selector
        rows = select_pairs(model, pairs, selector)
        if self.settings.mode == "moderate" and not self.parity and selector != "POOLED":
            rows = _to_nothing_said(model, rows)
        preserve, weights = self.preserved(model, space, rows, kept)
        ridge = self.settings.lamb
        if not self.parity:
            ridge *= float(rows.erase.double().square().sum(1).mean()) / rows.erase.shape[1]
        problem = EditProblem(rows.erase, rows.anchors, preserve, ridge, rows.weights, weights, rows.groups, space)
        return problem, rows

    def preserved(self, model: EditableModel, space: str, rows: RowSet, kept: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Rows that must stay, with weights: the user's phrases, and in our defaults empty prompt and start token."""
        pooled = space == POOLED_SPACE
        if self.parity:
            return self._preserved_officially(model, rows, kept, pooled)
        empty = select_rows(model, [""], "POOLED" if pooled else "ALL77")
        protect = 10.0 if self.settings.protect is None else self.settings.protect
        weights = torch.full((len(empty),), protect * float(rows.weights.mean()) / len(empty)).double()
        if not kept:
            return empty, weights
        stay = select_rows(model, kept, "POOLED" if pooled else self.selector)
        scale = 1.0 if self.settings.preserve_scale is None else self.settings.preserve_scale
        return torch.cat([stay, empty]), torch.cat([torch.full((len(stay),), scale).double(), weights])

    def _preserved_officially(
        self, model: EditableModel, rows: RowSet, kept: tuple[str, ...], pooled: bool
    ) -> tuple[Tensor, Tensor]:
        scale = self.settings.preserve_scale
        if self.settings.generation == "2023":
            prompts = ["", *kept]
            scale = max(0.1, 1 / len(prompts)) if scale is None else scale
            found = select_rows(model, prompts, "POOLED" if pooled else "ALL77")
        elif kept:
            found = select_rows(model, kept, "POOLED" if pooled else "LAST")
        else:
            found = rows.erase[:0]
        return found, torch.full((len(found),), 1.0 if scale is None else scale).double()


def _to_nothing_said(model: EditableModel, rows: RowSet) -> RowSet:
    """Moderation without the start token: aim at the empty prompt's row at the same position of the chunk."""
    empty = select_rows(model, [""], "ALL77")
    anchors = torch.stack([empty[max(1, origin.position % len(empty))] for origin in rows.origins])
    return RowSet(rows.erase, anchors, rows.weights, rows.groups, rows.origins)


def _tensor_deltas(
    model: EditableModel, problems: Mapping[str, EditProblem], row_sets: Mapping[str, RowSet]
) -> dict[str, WeightDelta]:
    """2023's "tensor" targets ``W A - <u, W A> u`` with ``u = W C / |W C|_F`` over each phrase's whole sequence.

    The targets differ per matrix, so the result is one delta per matrix sharing ``down = Y``.
    """
    space, problem = next(iter(problems.items()))
    rows = row_sets[space]
    prompts = sorted({origin.prompt for origin in rows.origins})
    owner = torch.tensor([prompts.index(origin.prompt) for origin in rows.origins])
    exact = EditProblem(
        rows.erase, rows.anchors, problem.preserve, problem.ridge, rows.weights, problem.preserve_weights, owner, space
    )
    down, mix = _thin(exact.factors()[1])
    sorted_rows, weights, deltas = exact.rows, model.weights(), {}
    sequences = [rows.erase[owner == i].double() for i in range(len(prompts))]
    targets = [rows.anchors[owner == i].double() for i in range(len(prompts))]
    for name in cross_attention_names(weights):
        weight = weights[name].double()
        goal = sorted_rows.anchors @ weight.T
        for i, (source, anchor) in enumerate(zip(sequences, targets, strict=True)):
            direction = source @ weight.T
            share = (direction * (anchor @ weight.T)).sum() / direction.square().sum()
            mine = sorted_rows.groups == i
            goal[mine] -= share * (sorted_rows.erase[mine] @ weight.T)
        up = (goal - sorted_rows.erase @ weight.T).T
        deltas[name] = WeightDelta(name, down=down.float(), up=(up @ mix).float())
    return deltas


def _thin(y: Tensor) -> tuple[Tensor, Tensor]:
    """``y`` [m, d] as ``mix @ down`` with at most d rows in ``down``: nothing is lost, files stay small."""
    if len(y) <= y.shape[1]:
        return y, torch.eye(len(y), dtype=y.dtype)
    factors = torch.linalg.qr(y.T)
    return factors.Q.T, factors.R.T

"""Unified Concept Editing (UCE, arXiv 2308.14761, WACV 2024) in one solve for all layers.

Two published generations differ in which rows they edit: 2025 the last subject token of each phrase (LAST), 2023 that
token and everything after it, padding included (TAIL). ``parity=True`` follows their defaults and quirks to the letter.
Our own defaults are explained in :data:`WHY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..concepts import Concept, ConceptSet
from ..embeddings import Pair, RowSet, select_rows
from ..erasure import POOLED_SPACE, Erasure, WeightDelta, cross_attention_names
from ..errors import BadInput
from ..models import EditableModel
from ..options import choice, flag, number, numbers
from ..solver import EditProblem
from ..summed import Problem, problem_of
from ..sums import RowSums
from ..templates import BARE, uce_templates
from .common import PROTECT, Job, Shared, our_sentences

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
class Settings(Shared):
    """Options of UCE under their official names, ranges included."""

    generation: str = choice("2025", ("2025", "2023"), "which published script: last subject token, or it and the rest")
    technique: str = choice(
        "replace", ("replace", "tensor"), "2023 only: aim at the anchor, or remove the concept's component per layer"
    )
    mode: str = choice(
        "erase",
        ("erase", "moderate", "replace", "debias"),
        "erase: to the anchor or neutral words; moderate: to the empty prompt; replace: to an anchor you must give; "
        "debias: the concept with the attributes of its anchor ('man / woman') added by alpha",
    )
    alpha: str = numbers("0.5", -10.0, 10.0, "debias: how much of each attribute to add, as '0.3 / -0.1'")
    erase_scale: float = number(1.0, 0.0, 1000.0, "weight of erased rows")
    preserve_scale: float | None = number(None, 0.0, 1000.0, "weight of preserved rows")
    lamb: float = number(0.5, 0.0, 1e6, "ridge; in units of mean |row|^2 / width, absolute with parity")
    expand_prompts: bool | None = flag(None, "also erase the concept inside sentences (with parity the published ones)")
    protect: float | None = number(None, 0.0, 1000.0, "weight of empty prompt and start token, times mean erase weight")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    if settings.technique == "tensor" and settings.generation != "2023":
        raise BadInput("technique=tensor belongs to generation=2023. Set both, or use technique=replace.")
    if settings.mode == "debias" and settings.generation == "2023":
        raise BadInput("mode=debias belongs to generation=2025, whose targets it has. Leave generation out.")
    if settings.mode == "debias" and settings.singular:
        raise BadInput("mode=debias keeps the concept and 'singular' removes it. Leave one of the two out.")
    job = Job.of(model, concepts, settings, parity, neutrals)
    setup = UceRows(job, settings)
    anchors = setup.anchors()
    problems, row_sets = setup.problems(anchors)
    deltas = _tensor_deltas(model, problems, row_sets) if settings.technique == "tensor" else None
    return job.finish(NAME, problems, anchors, setup.selector, setup.templates, deltas)


def problems_of(model: EditableModel, concepts: Sequence[Concept], kept: tuple[str, ...]) -> dict[str, Problem]:
    """Text space -> what our defaults solve there for ``concepts``; ``groups`` are their numbers in sorted order."""
    job = Job.of(model, ConceptSet(tuple(concepts), kept), Settings(), False, model.neutrals)
    rows = UceRows(job, Settings())
    return rows.problems(rows.anchors())[0]


@dataclass(frozen=True)
class UceRows:
    """Which rows of a job UCE moves, where to, and which ones it keeps."""

    job: Job
    settings: Settings

    @property
    def selector(self) -> str:
        """Rows of the cross-attention space."""
        return (SELECTOR if self.job.parity else OUR_SELECTOR)[self.settings.generation]

    def templates(self, concept: Concept) -> tuple[str, ...]:
        """Sentences for a concept."""
        expand = not self.job.parity if self.settings.expand_prompts is None else self.settings.expand_prompts
        if not expand:
            return BARE
        return uce_templates(concept.kind) if self.job.parity else our_sentences(concept)

    def problems(self, anchors: Sequence[str]) -> tuple[dict[str, Problem], dict[str, RowSet | RowSums]]:
        """One problem per text space, with the rows as they were selected."""
        # the published scripts put only the concept into the sentences, the guide stays a bare phrase
        bare = self.job.parity or self.settings.mode == "moderate"
        row_sets = {
            space: self._debiased(space, anchors)
            if self.settings.mode == "debias"
            else self._rows(space, self.job.pairs(anchors, self.templates, self.settings.erase_scale, bare))
            for space in self.job.spaces
        }
        return {space: self._problem(space, rows) for space, rows in row_sets.items()}, row_sets

    def anchors(self) -> list[str]:
        """What each concept is to become."""
        mode = self.settings.mode
        if mode == "moderate":
            return [""] * len(self.job.concepts)
        for concept in self.job.concepts:
            if mode in ("replace", "debias") and not concept.anchor:
                what = "anchor" if mode == "replace" else "attribute / other attribute"
                raise BadInput(
                    f"mode={mode} needs an anchor for '{concept.target}': write '{concept.target} -> {what}'."
                )
        return self.job.anchors(self._guide if self.job.parity else None)

    def _guide(self, concept: Concept) -> str:
        """The published scripts' anchor where none is named."""
        if self.settings.generation == "2023":
            return " "
        return "art" if concept.kind == "style" else ""

    def _rows(self, space: str, pairs: Sequence[Pair]) -> RowSet | RowSums:
        if self.settings.mode == "moderate" and not self.job.parity and space != POOLED_SPACE:
            return _to_nothing_said(self.job.model, self.job.rows(space, pairs, self.selector))
        if self.settings.technique == "tensor":
            return self.job.rows(space, pairs, self.selector)
        return self.job.gathered(space, pairs, self.selector)

    def _debiased(self, space: str, anchors: Sequence[str]) -> RowSet:
        """Targets ``c + sum_k alpha_k a_k`` (UCE's debiasing for given alpha, arXiv 2308.14761, section 4.2)."""
        alphas = [float(value) for value in self.settings.alpha.split("/")]
        attributes = [[part.strip() for part in anchor.split("/")] for anchor in anchors]
        for concept, found in zip(self.job.concepts, attributes, strict=True):
            if len(found) != len(alphas):
                raise BadInput(
                    f"'{concept.target}' has {len(found)} attributes but alpha has {len(alphas)} numbers. Write as "
                    "many numbers as attributes: 'nurse -> man / woman' with alpha='0.3 / -0.1'."
                )
        parts = [
            self.job.rows(
                space,
                self.job.pairs([a[k] for a in attributes], self.templates, self.settings.erase_scale, True),
                self.selector,
            )
            for k in range(len(alphas))
        ]
        total = parts[0].erase.double()
        for alpha, part in zip(alphas, parts, strict=True):
            total = total + alpha * part.anchors.double()
        return replace(parts[0], anchors=total)

    def _problem(self, space: str, rows: RowSet | RowSums) -> Problem:
        settings = self.settings
        if not self.job.parity:
            protect = PROTECT if settings.protect is None else settings.protect
            keep = 1.0 if settings.preserve_scale is None else settings.preserve_scale
            return self.job.problem(space, rows, settings.lamb, self.selector, protect, keep)
        return problem_of(rows, settings.lamb, space, *self._preserved_officially(space))

    def _preserved_officially(self, space: str) -> tuple[Tensor, Tensor]:
        scale, kept = self.settings.preserve_scale, self.job.kept
        if self.settings.generation == "2023":
            prompts = ["", *kept]
            scale = max(0.1, 1 / len(prompts)) if scale is None else scale
            found = self.job.kept_rows(space, prompts, "ALL77")
        elif kept:
            found = self.job.kept_rows(space, kept, "LAST")
        else:
            found = torch.zeros(0, self.job.model.spaces[space])
        return found, torch.full((len(found),), 1.0 if scale is None else scale).double()


def _to_nothing_said(model: EditableModel, rows: RowSet) -> RowSet:
    """Moderation without the start token: aim at the empty prompt's row at the same position of the chunk."""
    empty = select_rows(model, [""], "ALL77")
    return replace(rows, anchors=empty[(rows.places[:, 1] % len(empty)).clamp_min(1)])


def _tensor_deltas(
    model: EditableModel, problems: Mapping[str, Problem], row_sets: Mapping[str, RowSet | RowSums]
) -> dict[str, WeightDelta]:
    """2023's "tensor" targets ``W A - <u, W A> u`` with ``u = W C / |W C|_F`` over each phrase's whole sequence.

    The targets differ per matrix, so the result is one delta per matrix sharing ``down = Y``.
    """
    space, problem = next(iter(problems.items()))
    rows = row_sets[space]
    assert isinstance(rows, RowSet)
    prompts = sorted(set(rows.prompts))
    owner = torch.tensor([prompts.index(prompt) for prompt in rows.prompts])[rows.places[:, 0]]
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

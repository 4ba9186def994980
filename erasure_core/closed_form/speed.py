"""SPEED (arXiv 2503.07392, ICLR 2026): the edit may read only directions in which what is kept has nothing.

The mathematics is in :mod:`.null_space`; here are the rows, the published settings and ours.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..compression import compress
from ..concepts import Concept, ConceptSet
from ..diagnostics import diagnose
from ..embeddings import Pair, RowSet, select_pairs
from ..erasure import POOLED_SPACE, Erasure, WeightDelta, cross_attention_names
from ..models import EditableModel
from ..options import choice, flag, number, text
from ..prompts import CHUNK
from ..solver import EditProblem
from ..templates import BARE, sentences
from .build import SMALL_RANK, finish, terms_gram
from .null_space import Inside, NullSpaceEdit
from .pairs import empty_prompt, gate, in_order, neutral_anchor, recipe, spoken_pairs, unit
from .subspace import check_feasible, cluster_centres, weakest_direction

NAME = "speed"
SUMMARY = "Erases without touching what is listed as kept: for long lists of phrases that must stay."
WHY = """\
What is preserved lies outside the space the edit may read, so it stays exactly, not nearly; the price is that a concept
much like what is preserved cannot be reached. The receipt says how much of it was (captured); below 1 % is refused.
Our defaults differ from the published ones where those hurt; --parity brings them back.
- One subspace for all layers instead of one each (subspace): the erasure is then a map of the text of a few kilobytes
  that works with gates and on quantised models. The layers' votes on which retained rows matter are added up.
- Keys and values instead of values alone (params), and the end-of-text row beside the concept's last token (rows), in a
  few sentences (expand_prompts): values alone, bare words alone, leave more of the concept.
- Augmentation by its expectation instead of by dice (augment): along a single direction, chance adds nothing but noise.
- Threshold and ridge are in units of the rows' mean square per dimension, so they mean the same for every encoder.
"""


@dataclass(frozen=True)
class Settings:
    """Options of SPEED under their official names, ranges included."""

    params: str = choice("auto", ("auto", "V", "K", "KV"), "matrices that change; auto: KV, with parity V")
    subspace: str = choice("auto", ("auto", "shared", "per-layer"), "one for all layers; auto: shared, with parity not")
    rows: str = choice(
        "auto", ("auto", "LAST", "LAST+EOT", "ALL76"), "of a phrase; auto: LAST+EOT, parity as published"
    )
    threshold: float = number(0.1, 0.0, 1e6, "what is kept is what has at least this, in mean |row|^2 / width")
    retain_scale: float | None = number(None, 0.0, 1e6, "ridge, in mean |row|^2 / width")
    lamb: float | None = number(None, 0.0, 1e6, "slack of the invariants; 0 keeps them exactly")
    disable_filter: bool = flag(False, "keep every retained row, however little the edit would touch it")
    aug_num: int = number(10, 0, 1000, "copies of each retained row along the weakest direction of the layers", True)
    augment: str = choice("auto", ("auto", "expected", "random"), "copies by expectation, or drawn (with parity)")
    seed: int = number(0, 0, 2**31, "for augment=random", True)
    centres: int = number(3, 0, 76, "cluster centres of the empty prompt that are invariant", True)
    invariants: str = text("", "more phrases to keep exactly, separated by |")
    expand_prompts: bool | None = flag(None, "also erase the concept inside sentences (not with parity)")
    pooled: bool | None = flag(None, "SDXL: also edit the pooled text vector (not with parity)")
    exact: bool = flag(False, "keep every row of a concept, however many and alike they are")


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    ordered = in_order(concepts)
    kept = tuple(sorted(concepts.all_preserved))
    setup = _Setup(settings, parity, neutrals or {}, all(c.kind == "safety" for c in ordered))
    anchors = [setup.anchor(concept) for concept in ordered]
    pairs = spoken_pairs(ordered, anchors, setup.sentences)
    edits = {s: setup.edit(model, s, pairs, kept) for s in model.spaces if s != POOLED_SPACE or setup.pooled}
    insides: dict[str, list[Inside]] = {}
    deltas = None
    for space, edit in edits.items():
        if setup.shared or space == POOLED_SPACE:
            insides[space] = [edit.inside(*_all_layers(model, space, setup.applies))]
        else:
            insides[space], deltas = _layer_by_layer(model, edit, setup.applies, settings.exact)
        shares = torch.stack([edit.reach(inside) for inside in insides[space]]).mean(0)
        check_feasible(shares, _dimensions(insides[space]), [concept.target for concept in ordered])
    problems = {space: found[0].problem for space, found in insides.items()}
    data = recipe(
        sys.modules[__name__], settings, parity, ordered, anchors, kept, problems,
        selection=setup.selector, templates=sorted({t for c in ordered for t in setup.sentences(c)}),
        seeds=[settings.seed] if setup.random else [],
    )  # fmt: skip
    made = finish(model, problems, data, gate(ordered, kept), settings.exact, deltas, setup.applies)
    diagnostics = {s: {**made.diagnostics[s], **_report(edits[s], insides[s])} for s in edits}
    return replace(made, diagnostics=diagnostics)


@dataclass(frozen=True)
class _Setup:
    settings: Settings
    parity: bool
    neutrals: Mapping[str, str]
    implicit: bool
    """Only concepts of kind "safety": the published settings for nudity apply."""

    @property
    def selector(self) -> str:
        if self.settings.rows != "auto":
            return self.settings.rows
        return "LAST+EOT" if not self.parity else "ALL76" if self.implicit else "LAST"

    @property
    def shared(self) -> bool:
        return self.settings.subspace == "shared" or (self.settings.subspace == "auto" and not self.parity)

    @property
    def random(self) -> bool:
        return self.settings.augment == "random" or (self.settings.augment == "auto" and self.parity)

    @property
    def applies(self) -> str:
        auto = "v" if self.parity else "kv"
        return auto if self.settings.params == "auto" else self.settings.params.lower()

    @property
    def pooled(self) -> bool:
        return not self.parity if self.settings.pooled is None else self.settings.pooled

    def sentences(self, concept: Concept) -> tuple[str, ...]:
        expand = not self.parity if self.settings.expand_prompts is None else self.settings.expand_prompts
        return sentences(concept.kind) if expand else BARE

    def anchor(self, concept: Concept) -> str:
        if concept.anchor or not self.parity:
            return neutral_anchor(concept, self.neutrals)
        return {"style": "art", "person": "person", "safety": ""}.get(concept.kind, " ")

    def edit(self, model: EditableModel, space: str, pairs: Sequence[Pair], kept: tuple[str, ...]) -> NullSpaceEdit:
        """Everything about one text space but the matrices that read it."""
        selector = "POOLED" if space == POOLED_SPACE else self.selector
        found = _pairs(model, pairs, selector)
        retained = [_rows(model, kept, selector)] if kept else []
        if self.parity and self.implicit:
            retained.append(_rows(model, [""], selector))
        rows = torch.unique(torch.cat([found.erase[:0], *retained]).double(), dim=0)
        settings, implicit = self.settings, self.parity and self.implicit
        rho = (0.7 if implicit else 1.0) if settings.retain_scale is None else settings.retain_scale
        lamb = (0.5 if implicit else 0.0) if settings.lamb is None else settings.lamb
        one, other = (1.0, 1.0) if self.parity else (unit(found.erase), unit(rows) if len(rows) else 1.0)
        shares = found.weights / len(found.weights)
        plain = EditProblem(found.erase, found.anchors, None, rho * one, shares, None, found.groups, space)
        return NullSpaceEdit(
            plain,
            rows,
            self.invariants(model, space, selector),
            settings.threshold * other,
            one,
            lamb,
            settings.disable_filter,
            0 if space == POOLED_SPACE else settings.aug_num,
            settings.seed if self.random else None,
        )

    def invariants(self, model: EditableModel, space: str, selector: str) -> Tensor:
        """Start token, cluster centres of the rest of the empty prompt (paper, section 3.4), and the given phrases."""
        empty = empty_prompt(model, space).double()
        given = [phrase for phrase in map(str.strip, self.settings.invariants.split("|")) if phrase]
        more = [_rows(model, given, selector).double()] if given else []
        return torch.cat([empty[:1], cluster_centres(empty[1:], self.settings.centres), *more])


def _pairs(model: EditableModel, pairs: Sequence[Pair], selector: str) -> RowSet:
    if selector != "ALL76":
        return select_pairs(model, pairs, selector)
    rows = select_pairs(model, pairs, "ALL77")
    stay = torch.tensor([origin.position % CHUNK != 0 for origin in rows.origins])
    origins = tuple(origin for origin in rows.origins if origin.position % CHUNK)
    return RowSet(rows.erase[stay], rows.anchors[stay], rows.weights[stay], rows.groups[stay], origins)


def _rows(model: EditableModel, phrases: Sequence[str], selector: str) -> Tensor:
    return _pairs(model, [Pair(phrase, phrase, phrase, phrase) for phrase in phrases], selector).erase


def _all_layers(model: EditableModel, space: str, applies: str) -> tuple[Tensor, Tensor | None]:
    """``sum W^T W`` over the matrices and their weakest direction; the identity and none if weights are quantised."""
    gram, source = terms_gram(model, space, torch.eye(model.spaces[space], dtype=torch.float64), applies)
    return gram, weakest_direction(gram, len(gram)) if source == "outputs" else None


def _layer_by_layer(
    model: EditableModel, edit: NullSpaceEdit, applies: str, exact: bool
) -> tuple[list[Inside], dict[str, WeightDelta]]:
    """As published: every matrix judges the retained rows by its own outputs and gets a subspace of its own."""
    weights, insides, deltas = model.weights(), [], {}
    for layer, name in enumerate(cross_attention_names(weights, applies)):
        weight = weights[name].double()
        gram = weight.T @ weight
        inside = edit.inside(gram, weakest_direction(gram, min(weight.shape)), layer)
        up, down = inside.problem.factors()
        if not exact and len(down) > SMALL_RANK:
            mix, down = compress(down, up.T @ gram @ up)
            up = up @ mix
        deltas[name] = WeightDelta(name, down=down.float().contiguous(), up=(weight @ up).float().contiguous())
        insides.append(inside)
    return insides, deltas


def _dimensions(insides: Sequence[Inside]) -> int:
    return min(inside.basis.shape[0] - inside.basis.shape[1] for inside in insides)


def _report(edit: NullSpaceEdit, insides: Sequence[Inside]) -> dict[str, Any]:
    """Numbers about the original rows, not their parts inside; of the layers' mean map where each has its own."""
    rows = edit.plain.rows
    shown = replace(edit.plain, preserve=torch.cat([edit.retained, edit.invariants]))
    factors = [inside.problem.factors() for inside in insides]
    shares = torch.stack([edit.reach(inside) for inside in insides]).mean(0)
    numbers = diagnose(
        shown, torch.cat([down for _, down in factors]) / len(factors), torch.cat([up for up, _ in factors], 1)
    )
    return {
        **{
            name: numbers[name]
            for name in ("norm", "residual", "drift", "drift_worst", "anchor_distance", "anchor_closest")
        },
        "rows_erased": len(rows.erase),
        "rows_preserved": len(edit.retained),
        "captured": float(f"{float(shares.min()):.6g}"),
        "captured_each": [float(f"{share:.6g}") for share in shares.tolist()],
        "null_space": _dimensions(insides),
    }

"""Fusing LoRAs so that each is obeyed on its own texts and nowhere else (MACE, arXiv 2403.06135, section 4.3).

Teacher i adds ``dW_i`` to a matrix W on the rows E_i of its concept's texts; rows of kept texts shall answer as W does.
The least-squares matrix is ``W* = W + sum_i dW_i M_i``, ``M_i = E_i E_i^T H^-1``, ``H = sum_i E_i E_i^T + l G + r I``
with G the Gram matrix of what is kept: only the half of a LoRA that reads the text changes, ``down_i M_i``. On top of a
refinement T (MACE's first stage) W becomes ``W T`` for the teachers and stays W for what is kept, which turns
``T = I + D Y`` into ``I + D Y (I - l G H^-1)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .closed_form.gram import caption_gram
from .combine import combine
from .concept_syntax import KINDS
from .erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta, check_deltas, cross_attention_names
from .errors import BadInput, NothingMatched
from .models import EditableModel
from .probe import probe
from .solver import RIDGE_FLOOR, cholesky
from .templates import contexts, fill

METHOD = "fusion"


@dataclass(frozen=True)
class Teacher:
    """A LoRA, as :func:`erasure_core.load` gives it, and the phrases (of one ``kind``) on whose texts it shall act."""

    erasure: Erasure
    phrases: tuple[str, ...]
    kind: str = "object"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.phrases or isinstance(self.phrases, str):
            raise BadInput("A LoRA to be fused needs the phrases it shall act on, as a list. Name at least one.")
        if self.kind not in KINDS:
            raise BadInput(f"{self.kind!r} is no kind of concept. Known: {', '.join(KINDS)}.")

    @property
    def texts(self) -> tuple[str, ...]:
        """Its phrases in thirty surroundings each."""
        return tuple(fill(template, phrase) for phrase in self.phrases for template in contexts(self.kind))


def fuse(
    model: EditableModel,
    teachers: Sequence[Teacher],
    base: Erasure | None = None,
    preserve: Sequence[str] = (),
    lamb: float = 0.0,
    preserve_scale: float = 1.0,
) -> Erasure:
    """One erasure of weight deltas out of several LoRAs on cross-attention keys and values.

    ``base``: a refinement whose map lies under the LoRAs (method "mace"). ``preserve``: texts that keep their answers,
    beside the empty prompt, with weight ``preserve_scale``. ``lamb``: absolute ridge. Changes of other weights are
    added up as they are; ``diagnostics`` counts them. Raises NothingMatched if a LoRA changes no key or value matrix,
    WrongFamily if it belongs to another model.
    """
    if not teachers:
        raise BadInput("There is nothing to fuse. Give at least one LoRA with its phrases.")
    weights = model.weights()
    space = next(iter(model.spaces))
    readers = set(cross_attention_names(weights))
    grams = [caption_gram(model, space, teacher.texts) for teacher in teachers]
    kept = preserve_scale * caption_gram(model, space, ("", *preserve))
    shares, prior = fusion_matrices(grams, kept, lamb)
    fused = []
    for teacher, share in zip(teachers, shares, strict=True):
        deltas = teacher.erasure.deltas(weights)
        check_deltas(deltas.values(), {name: tuple(weights[name].shape) for name in deltas if name in weights})
        if not readers & deltas.keys():
            raise NothingMatched(
                f"The LoRA for '{teacher.phrases[0]}' changes no key or value matrix of cross-attention, so there is "
                "nothing to fuse. Load it by itself instead."
            )
        moved = {name: _reading(d, share) if name in readers else d for name, d in deltas.items()}
        fused.append((Erasure(weight_deltas=moved), float(teacher.strength)))
    if base is not None:
        fused.append((Erasure(weight_deltas=_under(base, space, prior).deltas(weights)), 1.0))
    total = combine(fused)
    concepts = [
        {"target": t.phrases[0], "anchor": "", "aliases": list(t.phrases[1:]), "kind": t.kind, "weight": 1.0}
        for t in teachers
    ]
    gate = {"phrases": [phrase for t in teachers for phrase in t.phrases], "neighbours": list(preserve)}
    options = {"lamb": lamb, "preserve_scale": preserve_scale}
    return replace(
        total,
        recipe={"method": METHOD, "concepts": concepts, "preserve": list(preserve), "options": options},
        base={"family": model.family, "clip_skip": model.clip_skip, "probe": probe(model)},
        gate=gate,
        diagnostics={"fusion": {"teachers": len(teachers), "summed": len(total.weight_deltas.keys() - readers)}},
    )


def fusion_matrices(grams: Sequence[Tensor], kept: Tensor, ridge: float) -> tuple[list[Tensor], Tensor]:
    """``M_i = E_i E_i^T H^-1`` for each Gram matrix [d, d] and ``kept H^-1``, float64.

    ``ridge`` is raised to 1e-6 of the mean eigenvalue of H.
    """
    total = torch.stack([*grams, kept]).sum(0)
    total.diagonal().add_(max(ridge, RIDGE_FLOOR * float(total.trace()) / len(total)))
    root = cholesky(total)
    return [torch.cholesky_solve(gram, root).T for gram in grams], torch.cholesky_solve(kept, root).T


def _reading(delta: WeightDelta, share: Tensor) -> WeightDelta:
    """``dW M``: the factor that reads the text changes, the rank stays."""
    if delta.down is not None:
        return replace(delta, down=(delta.down.double() @ share).float())
    assert delta.diff is not None
    return replace(delta, diff=(delta.diff.double() @ share).float())


def _under(base: Erasure, space: str, prior: Tensor) -> Erasure:
    """The refinement with its map ``I + D Y (I - l G H^-1)``."""
    maps = dict(base.maps)
    if space in maps:
        factor = maps[space].linear()
        down = factor.down.double()
        maps[space] = EmbeddingMap(space, (MapFactor((down - down @ prior).float(), factor.up),))
    return replace(base, maps=maps)

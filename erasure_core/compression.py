"""Lowering ranks: of embedding maps, judged by what the model's weights make of them, and of changes of weights."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .erasure import POOLED_SPACE, POOLED_WEIGHT, EmbeddingMap, Erasure, MapFactor, WeightDelta, cross_attention_names
from .errors import BadInput, NothingMatched, WrongFamily
from .gramian import gram_of

ENERGY_ERROR = 1e-4
MAX_RANK = 4096
_METRICS: OrderedDict[str, Tensor] = OrderedDict()  # S by content of the weights
_METRICS_KEPT = 3  # 2048 x 2048 in float64 are 34 MB


def output_gram(weights: Mapping[str, Tensor], names: list[str], up: Tensor) -> Tensor:
    """``up^T S up`` [m, m] in float64, ``S = sum_l W_l^T W_l`` over the named matrices' first ``len(up)`` columns.

    ``up`` [d, m]. Entry i, j is how alike the outputs of terms i and j are over all matrices together.
    """
    width, rank = up.shape
    if rank >= width:
        return up.double().T @ _metric(weights, names, width) @ up.double()
    total = torch.zeros(rank, rank, dtype=torch.float64)
    for name in names:
        total += gram_of(_reading(weights, name, width) @ up.double())
    return total


def output_metric(weights: Mapping[str, Tensor], names: list[str], width: int) -> Tensor:
    """``S = sum_l W_l^T W_l`` [width, width] in float64, kept for the next call with the same weights.

    How far apart two texts are for all matrices together: |x|_S^2 = sum_l |W_l x|^2. For SDXL it takes some seconds to
    add up and a second to recognise.
    """
    digest = hashlib.blake2b(f"{width} {names}".encode())
    for name in names:
        digest.update(weights[name].float().contiguous().numpy().tobytes())
    key = digest.hexdigest()
    if key not in _METRICS:
        _METRICS[key] = _metric(weights, names, width)
    _METRICS.move_to_end(key)
    while len(_METRICS) > _METRICS_KEPT:
        _METRICS.popitem(last=False)
    return _METRICS[key].clone()


def _metric(weights: Mapping[str, Tensor], names: list[str], width: int) -> Tensor:
    total = torch.zeros(width, width, dtype=torch.float64)
    for name in names:
        total += gram_of(_reading(weights, name, width))
    return total


def _reading(weights: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    """The columns of a matrix that read the text space, in float64."""
    matrix = weights[name].double()
    if matrix.shape[1] < width:
        raise WrongFamily(f"{name} reads {matrix.shape[1]} numbers, the text space has {width}.")
    return matrix[:, :width]


@dataclass(frozen=True)
class Ranked:
    """All terms of a change in the order of their strength, to be cut anywhere.

    ``mix`` [m, k] and ``down`` [k, d]: the change is ``up @ mix @ down``; ``lost`` [k]: the share of the energy that is
    gone without the terms after each one.
    """

    mix: Tensor
    down: Tensor
    lost: Tensor

    @classmethod
    def of(cls, down: Tensor | None, gram: Tensor) -> Ranked:
        """From ``down`` [m, d], None for the unit matrix, and ``gram = up^T S up`` [m, m], float64.

        With ``S = sum W^T W`` the order is the best one for the outputs of all matrices at once (Eckart-Young in the
        metric S): the change is projected on its strongest right directions.
        """
        inner = None if down is None else torch.linalg.qr(down.T)
        energy, vectors = torch.linalg.eigh(gram if inner is None else inner.R @ gram @ inner.R.T)
        energy, vectors = energy.flip(0).clamp_min(0), vectors.flip(1)
        found, mix = (vectors.T, vectors) if inner is None else ((inner.Q @ vectors).T, inner.R.T @ vectors)
        # one sign per term, so that equal maps give equal files
        sign = torch.where(found.sum(1) < 0, -1.0, 1.0).to(gram)
        return cls(mix * sign, found * sign[:, None], 1 - energy.cumsum(0) / energy.sum().clamp_min(1e-300))

    def cut(
        self, error: float = ENERGY_ERROR, rank: int | None = None, at_most: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """``mix`` and ``down`` of the fewest terms that lose at most ``error``, ``at_most`` so many; or of ``rank``."""
        enough = int((self.lost > error).sum()) + 1 if rank is None else rank
        keep = min(enough, at_most or len(self.lost), len(self.lost))
        return self.mix[:, :keep], self.down[:keep]


def compress(
    down: Tensor, gram: Tensor, error: float = ENERGY_ERROR, rank: int | None = None, at_most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Fewest rank-one terms that lose at most a share ``error`` of ``tr(X^T S X)``, X = ``up @ down``.

    With ``rank`` the strongest ``rank`` terms, whatever is lost; with ``at_most`` no more than so many.
    ``down`` [m, d] and ``gram = up^T S up`` [m, m], float64. Returns ``mix`` [m, k] and ``small_down`` [k, d]: the
    smaller pair is ``up @ mix`` and ``small_down``; see :class:`Ranked`.
    """
    return Ranked.of(down, gram).cut(error, rank, at_most)


def energy_error(down: Tensor, gram: Tensor, mix: Tensor, small_down: Tensor) -> float:
    """Share of ``tr(X^T S X)`` that the smaller pair misses of X = ``up @ down``; arguments as in :func:`compress`."""
    rest = down - mix @ small_down
    total = (down * (gram @ down)).sum()
    return float((rest * (gram @ rest)).sum() / total) if total > 0 else 0.0


def low_rank(
    name: str, change: Tensor, error: float = ENERGY_ERROR, rank: int | None = None, at_most: int | None = None
) -> tuple[WeightDelta, float]:
    """The best delta for the weight ``name`` of a dense ``change``, and the share of its energy that is lost.

    ``change`` [o, i], [o, i, kh, kw] or [n], any float dtype. The terms are its strongest singular directions, in
    float64: as few as lose at most ``error``, no more than ``at_most`` in any case, or ``rank`` of them. Vectors are
    kept whole, and with neither limit so is what factors would not make smaller.
    """
    if change.dim() < 2:
        return WeightDelta(name, diff=change.float()), 0.0
    matrix = change.flatten(1).double()
    tall = len(matrix) >= matrix.shape[1]
    thin = matrix if tall else matrix.T  # the Gram matrix of the shorter side is the cheaper one
    unit = torch.eye(thin.shape[1], dtype=torch.float64)
    mix, small = compress(unit, thin.T @ thin, error, rank, at_most)
    if rank is at_most is None and len(small) * sum(matrix.shape) >= matrix.numel():
        return WeightDelta(name, diff=change.float()), 0.0
    total = float(matrix.square().sum())
    lost = float((thin - thin @ mix @ small).square().sum()) / total if total else 0.0
    up, down = (thin @ mix, small) if tall else (small.T, (thin @ mix).T)
    kernel = change.shape[2:]
    down = down.reshape(len(small), change.shape[1], *kernel)
    up = up.reshape(len(change), len(small), *(1 for _ in kernel))
    return WeightDelta(name, down=down.float().contiguous(), up=up.float().contiguous()), lost


def compress_to(erasure: Erasure, rank: int, model: Any) -> Erasure:
    """``erasure`` with maps and deltas of at most ``rank`` terms each, the best ones, and what was lost stated.

    ``model``: the model, or its weights by canonical name, on whose outputs a map is judged; it is not read for deltas.
    ``diagnostics`` get ``rank`` and ``energy_error`` of each map, and under ``compressed`` the largest
    ``delta_energy_error`` of a delta: the share of the change's energy that is gone. Rows for joining are dropped,
    because a joint solve would bring the old rank back. Raises BadInput for a rank below 1 or a map with a bias.
    """
    check_rank(rank)
    weights: Mapping[str, Tensor] = model if isinstance(model, Mapping) else model.weights()
    maps, diagnostics = dict(erasure.maps), dict(erasure.diagnostics)
    for space, emap in erasure.maps.items():
        if emap.rank > rank:
            names = [POOLED_WEIGHT] if space == POOLED_SPACE else cross_attention_names(weights, erasure.applies)
            maps[space], lost = _smaller_map(emap, rank, {n: weights[n] for n in names if n in weights})
            diagnostics[space] = {**diagnostics.get(space, {}), "rank": rank, "energy_error": lost}
    deltas, worst = dict(erasure.weight_deltas), 0.0
    for name, delta in erasure.weight_deltas.items():
        if delta.rank is None or delta.rank > rank:
            deltas[name], lost = low_rank(name, delta.dense(), rank=rank)
            worst = max(worst, lost)
    if erasure.weight_deltas:
        diagnostics["compressed"] = {"rank": rank, "delta_energy_error": float(f"{worst:.3g}")}
    recipe = {**erasure.recipe, "rows": {}} if "rows" in erasure.recipe else erasure.recipe
    return replace(erasure, maps=maps, weight_deltas=deltas, recipe=recipe, diagnostics=diagnostics, statistics={})


def check_rank(rank: Any) -> None:
    """Raise BadInput for anything but a whole number that can be a rank."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise BadInput(f"The rank must be a whole number from 1 to {MAX_RANK}, not {rank!r}.")


def _smaller_map(emap: EmbeddingMap, rank: int, weights: Mapping[str, Tensor]) -> tuple[EmbeddingMap, float]:
    if not weights:
        raise NothingMatched(
            f"No weight of this model reads the text space '{emap.space}', so the map's terms cannot be judged. "
            "Give the model it was made for."
        )
    factor = emap.linear()
    down, up = factor.down.double(), factor.up.double()
    gram = output_gram(weights, list(weights), up)
    mix, small = compress(down, gram, rank=rank)
    lost = energy_error(down, gram, mix, small)
    smaller = MapFactor(small.float().contiguous(), (up @ mix).float().contiguous())
    return EmbeddingMap(emap.space, (smaller,)), float(f"{lost:.3g}")

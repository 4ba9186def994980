"""What a solved edit will do, known before any weight is touched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .gramian import PART, gram_of
from .summed import Problem

_POWER_STEPS = 30


def diagnose(problem: Problem, down: Tensor, up: Tensor, bias: Tensor | None = None) -> dict[str, Any]:
    """Numbers about ``T = I + up @ down`` (``up`` D [d, r], ``down`` Y [r, d], ``bias`` [d]) as answer to ``problem``.

    ``condition``: estimate of cond(G). ``norm``: largest singular value of T - I. ``effective_rank``: exp of the
    entropy of its singular values. ``null_space``: dimensions no row speaks about. ``residual``: mean over erased rows
    of |T c - a| / |c - a|. ``captured``: share of the erased rows' energy the edit can reach (1 without a subspace).
    ``drift`` and ``drift_worst``: mean and largest |T p - p| / |p| over preserved rows; of rows given as a Gram matrix
    G only the root mean square is known, (tr X G X^T / tr G)^1/2 with X = T - I: it is ``drift``. ``anchor_distance``:
    mean |c - a| / |c| of the concept whose anchor is closest, ``anchor_closest``: its number. Of rows known as sums
    an evenly spaced sample is judged.
    """
    rows = problem.rows
    down, up = down.double(), up.double()
    singular = _singular_values(down, up)
    wanted = (rows.erase - rows.anchors).norm(dim=1)
    drift = misses(rows.preserve, down, up, bias) / rows.preserve.norm(dim=1).clamp_min(1e-30)
    return {
        "condition": _round(_largest_eigenvalue(problem.gram()) / problem.effective_ridge),
        "ridge": _round(problem.effective_ridge),
        "norm": _round(singular.max()) if len(singular) else 0.0,
        "effective_rank": _round(_effective_rank(singular)),
        "null_space": problem.width - _row_rank(problem),
        "captured": 1.0,
        "residual": residual(problem, down, up, bias),
        **_drifts(problem, drift, down, up),
        "rows_erased": problem.counts[0],
        "rows_preserved": problem.counts[1],
        **_closest_anchor(rows.groups, wanted / rows.erase.norm(dim=1).clamp_min(1e-30)),
    }


def residual(problem: Problem, down: Tensor, up: Tensor, bias: Tensor | None = None) -> float:
    """Mean over erased rows of |T c - a| / |c - a|, as in :func:`diagnose`."""
    rows = problem.rows
    wanted = (rows.erase - rows.anchors).norm(dim=1)
    moved = wanted > 0
    left = misses(rows.erase, down.double(), up.double(), bias, rows.anchors - rows.erase)[moved] / wanted[moved]
    return _round(left.mean()) if len(left) else 0.0


def misses(rows: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, wanted: Tensor | None = None) -> Tensor:
    """|X x + bias - wanted| of each row x [n, d] with X = ``up @ down``."""
    change = up @ down if 2 * len(down) > len(up) else None
    found = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART]
        moved = part @ down.T @ up.T if change is None else part @ change.T
        if bias is not None:
            moved += bias.double()
        if wanted is not None:
            moved -= wanted[start : start + PART]
        found.append(moved.norm(dim=1))
    return torch.cat(found)


def _drifts(problem: Problem, moved: Tensor, down: Tensor, up: Tensor) -> dict[str, float]:
    """``moved``: |T p - p| / |p| of each preserved row."""
    mean, worst = (float(moved.mean()), float(moved.max())) if len(moved) else (0.0, 0.0)
    if problem.preserve_gram is not None:
        gram = problem.preserve_gram.double()
        mean = float(((up.T @ up) * (down @ gram @ down.T)).sum().clamp_min(0) / gram.trace().clamp_min(1e-300)) ** 0.5
    return {"drift": _round(mean), "drift_worst": _round(max(mean, worst))}


def _closest_anchor(groups: Tensor, distances: Tensor) -> dict[str, Any]:
    """The smallest mean distance of a concept's rows from its anchor's, and which concept that is."""
    if len(groups) == 0:
        return {}
    count = torch.bincount(groups)
    mean = torch.bincount(groups, weights=distances) / count
    mean[count == 0] = torch.inf
    closest = int(mean.argmin())
    return {"anchor_distance": _round(mean[closest]), "anchor_closest": closest}


def _singular_values(down: Tensor, up: Tensor) -> Tensor:
    """Singular values of ``up @ down`` from two thin factorisations, never the d x d product."""
    if down.numel() == 0:
        return down.new_zeros(0)
    left, right = torch.linalg.qr(up).R, torch.linalg.qr(down.T).R
    return torch.linalg.svdvals(left @ right.T)


def _effective_rank(singular: Tensor) -> float:
    share = singular[singular > 0] / singular.sum().clamp_min(1e-300)
    return float(torch.exp(-(share * share.log()).sum())) if len(share) else 0.0


def _largest_eigenvalue(gram: Tensor) -> float:
    """Power iteration from a fixed start; an estimate is all that is asked for."""
    vector = torch.linspace(1, 2, len(gram), dtype=gram.dtype)
    value = 0.0
    for _ in range(_POWER_STEPS):
        vector = gram @ (vector / vector.norm())
        value = float(vector.norm())
    return value


def _row_rank(problem: Problem) -> int:
    """Numerical rank of all rows together: squared singular values above 1e-10 of the largest.

    Of fewer rows than dimensions from their own Gram matrix, which is smaller; else they count with their weights.
    """
    if sum(problem.counts) < problem.width and problem.preserve_gram is None:
        gram = gram_of(torch.cat([problem.rows.erase, problem.rows.preserve]).T)
    else:
        gram = problem.gram()
        gram.diagonal().sub_(problem.effective_ridge)
    if gram.numel() == 0:
        return 0
    values = torch.linalg.eigvalsh(gram)
    return int((values > values.max() * 1e-10).sum())


def _round(value: float | Tensor) -> float:
    return float(f"{float(value):.6g}")

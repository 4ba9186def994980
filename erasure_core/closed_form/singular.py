"""Following a map by a projector, so that no text leads back to the concept.

A linear "replace" edit T is invertible unless the anchor is orthogonal to the concept, so the text ``T^-1 c`` is read
as ``c`` (det T = (ridge + <c, a>) / (ridge + <c, c>) for one pair). ``Pi = I - U V`` makes ``Pi T`` singular: whatever
comes in, ``V x = 0`` comes out. The text that RECE derives (arXiv 2407.12383, Eq. 8) then ends, for ever smaller r, at
the point of that plane nearest to the concept for all matrices together, with ``S = sum W^T W``
``c - S^-1 V^T (V S^-1 V^T)^-1 V c``. So V are the k directions per concept in which its rows differ most from their
anchors', measured against what has to stay and against the room ``V S^-1 V^T`` they leave an attacker: the largest
solutions of ``D Omega D^T v = mu N v`` with ``D = A - C`` and ``N`` the Gram matrix of what stays (anchors, kept
phrases, the empty prompt) plus a multiple of ``S^-1``. ``U = N V^T (V N V^T)^-1`` changes what stays least, as the
oblique projector of LEACE does (arXiv 2306.03819; without centring, so that no bias is needed).

The multiple decides between the two aims. With little of it V are directions that nothing else uses and the model
hardly reads: cheap to remove, and without them the concept is drawn all the same. With much of it V are the largest
differences themselves, which other words share. Measured on the bundled model while choosing it, with texts derived for
a circle with r = 0.1 and 0.001, of 32 pictures each (13 show one without the word), and neighbours, of 56 (before: 55):
k = 2 at 50, 100, 200: 13 and 9, 10 and 6, 3 and 1, neighbours 54 each; k = 1 at 200: 12 and 7, 52; k = 4 at 200: 5 and
0, 55; but a star's neighbours fall from 54 to 51 at 200. With the unit matrix in place of ``S^-1``, which takes a step
for long that the model hardly sees, k = 2 at 100 leaves 27 and 21 and moves kept phrases more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..diagnostics import diagnose
from ..erasure import EmbeddingMap, Erasure, MapFactor
from ..errors import BadInput
from ..gramian import gram_of
from ..solver import EditProblem, cholesky
from .common import Job, our_sentences
from .terms import text_metric

RIDGE = 100.0  # in units of the rows' mean square per dimension
UNREAD = 1e-4  # of the metric's mean eigenvalue
SELECTOR = "LAST+EOT"


def projector(problem: EditProblem, directions: int, metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U`` [d, r], ``V`` [r, d] and the concept of each direction [r], float64; r = directions x concepts.

    ``problem``: its anchors and preserved rows stay, its ridge is the multiple of ``S^-1``. ``metric``: S [d, d] of the
    matrices that read the text, of any scale.
    """
    rows = problem.rows
    staying = torch.cat([rows.anchors, rows.preserve])
    weights = torch.cat([rows.omega, rows.omega_preserve])
    noise = gram_of(staying, weights) + problem.effective_ridge * _room(metric)
    root = cholesky(noise)
    found, owners = [], []
    for owner in rows.groups.unique().tolist():
        mine = rows.groups == owner
        wanted = (rows.anchors[mine] - rows.erase[mine]) * rows.omega[mine, None].sqrt()
        signal = torch.linalg.solve_triangular(root, wanted.T, upper=False)
        left = torch.linalg.svd(signal, full_matrices=False).U[:, :directions]
        left = left * torch.where(left.sum(0) < 0, -1.0, 1.0).to(left)  # one sign, so that equal maps give equal files
        found.append(torch.linalg.solve_triangular(root.T, left, upper=True).T)
        owners += [owner] * left.shape[1]
    v = torch.cat(found)
    lifted = noise @ v.T
    # directions of two concepts may nearly coincide: together they are removed only once
    return lifted @ torch.linalg.pinv(v @ lifted, hermitian=True, rtol=1e-6), v, torch.tensor(owners)


def _room(metric: Tensor) -> Tensor:
    """``S^-1`` [d, d] with S scaled to a mean eigenvalue of 1; what no matrix reads counts as read a little."""
    scaled = metric / (metric.trace() / len(metric))
    scaled.diagonal().add_(UNREAD)
    return torch.cholesky_inverse(cholesky(scaled))


def make_singular(job: Job, erasure: Erasure, directions: int) -> Erasure:
    """``erasure``, made for ``job``, with every map followed by the projector of ``directions`` per concept.

    Raises BadInput if it acts on weights: its changes differ per matrix, so there is no map to follow.
    """
    if erasure.weight_deltas or not erasure.maps:
        raise BadInput(
            "The option 'singular' follows a map of the text, and with these settings the method changes weights. "
            "Leave one of the two out."
        )
    pairs = job.pairs([concept["anchor"] for concept in erasure.recipe["concepts"]], our_sentences)
    maps, diagnostics, owners = {}, dict(erasure.diagnostics), dict(erasure.recipe["rows"])
    for space, emap in erasure.maps.items():
        problem = job.problem(space, job.rows(space, pairs, SELECTOR), RIDGE, SELECTOR)
        assert isinstance(problem, EditProblem)
        metric, source = text_metric(job.model, space, erasure.applies)
        u, v, mine = projector(problem, directions, metric)
        factor = MapFactor(v.float().contiguous(), -u.float().contiguous())
        maps[space], owners[space] = _followed(emap, factor), owners[space] + mine.tolist()
        diagnostics[space] = {
            **diagnostics[space],
            **_measured(problem, maps[space]),
            "singular": len(v),
            "outputs_of": source,
        }
    recipe = {**erasure.recipe, "rows": owners}
    # the map is no longer the solution of its problem: joined from its rows it would lose the closed directions
    return replace(erasure, maps=maps, diagnostics=diagnostics, recipe=recipe, statistics={})


def _followed(emap: EmbeddingMap, last: MapFactor) -> EmbeddingMap:
    """The product, as one factor where no bias is in the way."""
    product = EmbeddingMap(emap.space, (*emap.factors, last))
    if any(factor.bias is not None for factor in product.factors):
        return product
    return EmbeddingMap(emap.space, (product.linear(),))


def _measured(problem: EditProblem, emap: EmbeddingMap) -> dict[str, Any]:
    """What the whole map does to the rows of ``problem``."""
    change = emap.matrix() - torch.eye(emap.width, dtype=torch.float64)
    bias = emap(torch.zeros(emap.width, dtype=torch.float64))
    numbers = diagnose(problem, change, torch.eye(emap.width, dtype=torch.float64), bias)
    names = ("norm", "effective_rank", "residual", "drift", "drift_worst")
    return {"rank": emap.rank, **{name: numbers[name] for name in names}}

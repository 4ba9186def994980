"""Following a map by a projector, so that no text leads back to the concept.

A linear "replace" edit T is invertible unless the anchor is orthogonal to the concept, so the text ``T^-1 c`` is read
as ``c`` (det T = (ridge + <c, a>) / (ridge + <c, c>) for one pair). ``Pi = I - U V`` makes ``Pi T`` singular: whatever
comes in, ``V x = 0`` comes out. V are the k directions per concept in which its rows differ most from their anchors',
measured against everything that has to stay (anchors, kept phrases, the empty prompt): the largest solutions of
``D Omega D^T v = mu N v`` with ``D = A - C`` and N the Gram matrix of what stays. ``U = N V^T (V N V^T)^-1`` then
changes what stays least, as the oblique projector of LEACE does (arXiv 2306.03819; without centring, so that no bias
is needed).

N's ridge decides between the two aims. With little of it V are directions that nothing else uses: cheap to remove, and
without them the concept is drawn all the same. With much of it V are the largest differences themselves. On the bundled
model, star and a text derived to give it back, of 16 pictures: uce 16; ridge 0.5 with k = 1, 4, 8: 16; ridge 5 with 1,
4: 10, 6; ridge 50: 3, 1; ridge 500 with 4: 1, but the concept itself and red's neighbours begin to suffer.
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

RIDGE = 50.0  # in units of the rows' mean square per dimension
SELECTOR = "LAST+EOT"


def projector(problem: EditProblem, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """``U`` [d, r], ``V`` [r, d] and the concept of each direction [r], float64; r = directions x concepts.

    ``problem``: its anchors and preserved rows stay, its ridge is added to their Gram matrix.
    """
    rows = problem.rows
    staying = torch.cat([rows.anchors, rows.preserve])
    weights = torch.cat([rows.omega, rows.omega_preserve])
    noise = gram_of(staying, weights)
    noise.diagonal().add_(problem.effective_ridge)
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
        u, v, mine = projector(problem, directions)
        factor = MapFactor(v.float().contiguous(), -u.float().contiguous())
        maps[space], owners[space] = _followed(emap, factor), owners[space] + mine.tolist()
        diagnostics[space] = {**diagnostics[space], **_measured(problem, maps[space]), "singular": len(v)}
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

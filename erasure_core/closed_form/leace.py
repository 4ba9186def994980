"""LEAst-squares Concept Erasure (LEACE, arXiv 2306.03819, NeurIPS 2023) on rows of text.

Rows of texts with the concept carry the label z = 1, rows of the same texts with the anchor z = 0. Of all affine maps
after which no linear classifier can tell the labels apart, ``r(x) = x - W^+ U U^T W (x - mu)`` changes the rows least
(Theorem 4.3): ``W = (Sigma_xx^1/2)^+``, U the left singular vectors of ``W Sigma_xz``. It is a projector, so the map is
singular by itself. With the labels at hand (Theorem 5.1, oracle) ``r(x) = x - Sigma_xz Sigma_zz^+ (z - mu_z)``; a
membrane knows z from its gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ConceptSet
from ..embeddings import select_rows
from ..erasure import POOLED_SPACE, Erasure
from ..errors import BadInput
from ..gramian import gram_of
from ..models import EditableModel
from ..options import choice, flag, number
from ..solver import Solved
from .common import Job, Shared, our_sentences

NAME = "leace"
SUMMARY = "Removes the one direction a linear classifier could tell a concept by; gentle, rarely enough by itself."
WHY = """\
Rows of sentences with the concept and of the same sentences with the anchor are the two classes. With --parity the
settings of the authors' library on the last row of each phrase.
- We take the end-of-text row, too, and count your kept phrases and the empty prompt as texts without the concept, so
  that their spread is part of what decides which direction is cheap.
- The mixture with the orthogonal projector (constrain_cov_trace) keeps rows from growing but gives up the guarantee. It
  is off here.
- The result has a bias and acts on the text; affine=no drops it, so that it can become a LoRA, and moves the mean.
- variant=oracle moves the rows by one vector and belongs behind the gate 'words'; without it every picture changes.
What a picture shows is no linear function of one direction: on the bundled model circle is still drawn in 21 of 32
pictures, star in 3, red in all. To close directions behind a map that erases, use singular=... with another method.
"""
OUR_ROWS = "LAST+EOT"


@dataclass(frozen=True)
class Settings(Shared):
    """Options of LEACE under their official names."""

    variant: str = choice(
        "leace",
        ("leace", "orth", "oracle"),
        "leace: least change; orth: without whitening; oracle: shift texts that name the concept (gate 'words')",
    )
    rows: str = choice("auto", ("auto", "LAST", "LAST+EOT", "EOT", "ALL77"), "which rows of the texts are the data")
    affine: bool = flag(True, "keep the mean of all rows; the result then acts on the text only, not as a LoRA")
    shrinkage: bool = flag(True, "estimate the covariance by linear shrinkage; needed with fewer rows than dimensions")
    svd_tol: float = number(0.01, 1e-12, 1e3, "smaller cross-covariances are left alone")
    constrain_cov_trace: bool | None = flag(None, "mix with the orthogonal projector if rows would grow")


@dataclass(frozen=True)
class Labelled:
    """Rows x [n, d] and labels z [n, k], float64."""

    x: Tensor
    z: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean row [d]."""
        return self.x.mean(0)

    @property
    def centred(self) -> Tensor:
        """Rows less their mean [n, d]."""
        return self.x - self.mean

    def shrinkage(self, trace: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """(share, level): the optimal estimate is ``share`` of the sample covariance and the rest ``level`` times I.

        Linear shrinkage of Bodnar, Gupta and Parolya (arXiv 1308.2608) towards the matrix of equal trace. ``trace`` and
        ``squares``: of the sample covariance, of its square.
        """
        count, width = self.x.shape
        level = trace / width
        spread = squares - width * level**2
        return 1 - (trace.square() / count) / spread.clamp_min(1e-300), level

    def covariance(self, shrinkage: bool) -> Tensor:
        """``Sigma_xx`` [d, d]; with ``shrinkage`` the optimal mixture with a multiple of the unit matrix."""
        total = gram_of(self.centred)
        if not shrinkage:
            return total / (len(self.x) - 1)
        sample = total / len(self.x)
        share, level = self.shrinkage(sample.trace(), sample.square().sum())
        result = share * sample
        result.diagonal().add_((1 - share) * level)
        return result

    def cross_covariance(self) -> Tensor:
        """``Sigma_xz`` [d, k]."""
        return self.centred.T @ (self.z - self.z.mean(0)) / (len(self.x) - 1)


def run(
    model: EditableModel, concepts: ConceptSet, settings: Settings, parity: bool, neutrals: Mapping[str, str] | None
) -> Erasure:
    """Erase ``concepts`` from ``model``; see :func:`erasure_core.erase`."""
    if settings.variant == "oracle" and len(concepts) > 1:
        raise BadInput(
            "variant=oracle shifts every text that names the concept by one vector, so it takes one concept at a time. "
            "Make one membrane for each concept and use them together."
        )
    job = Job.of(model, concepts, settings, parity, neutrals)
    anchors = job.anchors()
    pairs = job.pairs(anchors, our_sentences)
    selector = settings.rows if settings.rows != "auto" else "LAST" if parity else OUR_ROWS
    solved = {}
    for space in job.spaces:
        rows = job.rows(space, pairs, selector)
        problem = job.problem(space, rows, 0.0, selector)
        staying = _staying(job, space, selector)
        labels = torch.nn.functional.one_hot(rows.groups, len(job.concepts)).double()
        x = torch.cat([rows.erase, rows.anchors, staying]).double()
        data = Labelled(x, torch.cat([labels, labels.new_zeros(len(x) - len(labels), labels.shape[1])]))
        up, down, groups = fit(data, settings, constrain=parity)
        bias = -(up @ (down @ data.mean)) if settings.affine else None
        if settings.variant == "oracle":
            bias, up, down, groups = -_mean_difference(data), up[:, :0], down[:0], groups[:0]
        solved[space] = Solved(problem, up, down, groups, bias)
    return job.finish(NAME, solved, anchors, selector, our_sentences)


def _staying(job: Job, space: str, selector: str) -> Tensor:
    """Further rows without the concept: kept phrases, and in our defaults the empty prompt."""
    pooled = space == POOLED_SPACE
    empty = select_rows(job.model, [""], "POOLED" if pooled else "ALL77")
    if job.parity:
        empty = empty[:0]
    if not job.kept:
        return empty
    return torch.cat([select_rows(job.model, job.kept, "POOLED" if pooled else selector), empty])


def fit(data: Labelled, settings: Settings, constrain: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``up`` [d, r] and ``down`` [r, d] of ``P - I`` and the label of each term [r].

    The projector on U is written as ``U A A^+ U^T`` with ``A = U^T W Sigma_xz``, which gives one term per label.
    """
    cross = data.cross_covariance()
    white = Whitening.of(data, settings)
    seen = white(cross)
    left, values, _ = torch.linalg.svd(seen, full_matrices=False)
    left = left[:, values > settings.svd_tol]
    inside = left.T @ seen
    ups, plain = white.back(left) @ inside, torch.linalg.pinv(inside) @ left.T
    downs, labels = white(plain.T).T, torch.arange(cross.shape[1])
    if settings.variant == "leace" and (
        constrain if settings.constrain_cov_trace is None else settings.constrain_cov_trace
    ):
        share = _share(data.covariance(settings.shrinkage), ups @ downs, left @ left.T)
        if share < 1:
            up = torch.cat([share * ups, (1 - share) * left @ inside], dim=1)
            return -up, torch.cat([downs, plain]), torch.cat([labels, labels])
    return -ups, downs, labels


@dataclass(frozen=True)
class Whitening:
    """``W = (Sigma_xx^1/2)^+`` on columns [d, k], and :meth:`back` its pseudo-inverse.

    ``vectors`` [d, r] orthonormal, with ``roots`` [r] of their eigenvalues; ``rest``: the root of all other directions.
    A root is 0 where the estimate is not positive, which shrinkage makes of rows that are hardly correlated.
    """

    vectors: Tensor
    roots: Tensor
    rest: float

    @classmethod
    def of(cls, data: Labelled, settings: Settings) -> Whitening:
        """Of fewer rows than dimensions from the rows, which is the smaller problem; the identity for "orth"."""
        count, width = data.x.shape
        if settings.variant == "orth":
            return cls(data.x.new_zeros(width, 0), data.x.new_zeros(0), 1.0)
        if count > width:
            values, vectors = torch.linalg.eigh(data.covariance(settings.shrinkage))
            live = values > values[-1] * width * torch.finfo(values.dtype).eps
            return cls(vectors[:, live], values[live].sqrt(), 0.0)
        values, mixes = torch.linalg.eigh(gram_of(data.centred.T))
        live = values > values[-1] * width * torch.finfo(values.dtype).eps
        values, mixes = values[live].flip(0), mixes[:, live].flip(1)  # the strongest first, so that it stays as it is
        vectors = torch.linalg.qr(data.centred.T @ (mixes / values.sqrt())).Q
        if not settings.shrinkage:
            return cls(vectors, (values / (count - 1)).sqrt(), 0.0)
        values = values / count
        share, level = data.shrinkage(values.sum(), values.square().sum())
        other = (1 - share) * level
        mixed = torch.cat([share * values + other, other[None]])
        roots = torch.where(mixed > mixed.max() * width * torch.finfo(mixed.dtype).eps, mixed, 0.0).sqrt()
        return cls(vectors, roots[:-1], float(roots[-1]))

    def __call__(self, columns: Tensor) -> Tensor:
        """``W columns``."""
        inverse = torch.where(self.roots > 0, 1 / self.roots, 0.0)
        return self._scaled(columns, inverse, 1 / self.rest if self.rest else 0.0)

    def back(self, columns: Tensor) -> Tensor:
        """``W^+ columns``."""
        return self._scaled(columns, self.roots, self.rest)

    def _scaled(self, columns: Tensor, inside: Tensor, outside: float) -> Tensor:
        rows = columns.T
        parts = rows @ self.vectors
        found = (parts * inside) @ self.vectors.T
        return (found + outside * (rows - parts @ self.vectors.T) if outside else found).T


def _share(sigma: Tensor, oblique: Tensor, orthogonal: Tensor) -> float:
    """How much of the oblique projector may stay so that the variance does not grow: 1 if it does not anyway.

    The variance of the mixture a P + (1 - a) Q is quadratic in a; the positive root gives the variance of before.
    """
    unit = torch.eye(len(sigma), dtype=sigma.dtype)
    p, q = unit - oblique, unit - orthogonal
    pp, pq, qq = (float((one @ sigma * other).sum()) for one, other in ((p, p), (p, q), (q, q)))
    old = float(sigma.trace())
    if pp <= old:
        return 1.0
    second, first, rest = pp - 2 * pq + qq, 2 * pq - 2 * qq, qq - old
    root = (-first + (first**2 - 4 * second * rest) ** 0.5) / (2 * second)
    return min(max(root, 0.0), 1.0)


def _mean_difference(data: Labelled) -> Tensor:
    """``Sigma_xz Sigma_zz^+`` [d] for one label: how the mean row moves when the concept is named."""
    centred = data.z[:, 0] - data.z[:, 0].mean()
    return data.cross_covariance()[:, 0] * (len(centred) - 1) / centred.square().sum()

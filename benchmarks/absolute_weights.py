"""How files of whole weights look from a base: edits of every published kind beside weights of another model.

    python benchmarks/absolute_weights.py

For each case: ``distance``, the median over matrices of |W_file - W_base| / |W_base|; ``bulk``, the same without the
strongest quarter of the change's directions; ``misfit`` of the best shared map, and the ``rank`` it would get. These
are the figures by which ``formats/absolute.py`` and ``formats/base_rule.py`` decide.

Bases: the bundled model with rows of its own texts, and six random matrices of SD1.x's shapes (d = 768; rows of length
28 that share a direction, as CLIP's do). Edits are made here by the published per-matrix formulas, in float32 as the
scripts compute or in float64, and stored in fp32, fp16 or bf16; nothing of the package makes them. ``tensor targets``:
UCE's targets that only remove the concept's direction, one per matrix. ``per layer``: the edit seen through a subspace
that each matrix has of its own (as SPEED's, arXiv 2503.07392). ``fine-tune``: noise of the given relative size on every
number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from erasure_core.formats.base_rule import bulk, median
from erasure_core.shared_map import SharedMap

RESULTS = Path(__file__).parent / "results" / "absolute_weights.json"
LAMB = 0.5
Rows = Callable[[int], Tensor]


def replaced(weight: Tensor, c: Tensor, a: Tensor, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """UCE's script: outer products, an explicit inverse, one matrix [o, d] at a time."""
    w, c, a, p = (t.to(dtype) for t in (weight, c, a, p))
    left = LAMB * w + (w @ a.T) @ c + (w @ p.T) @ p
    right = LAMB * torch.eye(w.shape[1], dtype=dtype) + c.T @ c + p.T @ p
    return left @ torch.inverse(right)


def tensored(weight: Tensor, c: Tensor, a: Tensor, p: Tensor) -> Tensor:
    """The same with targets ``W a`` less their part along ``W c``, which differ from matrix to matrix."""
    w, c, a, p = (t.double() for t in (weight, c, a, p))
    old, new = c @ w.T, a @ w.T
    unit = old / old.norm(dim=1, keepdim=True)
    target = new - (unit * new).sum(1, keepdim=True) * unit
    right = LAMB * torch.eye(w.shape[1], dtype=torch.float64) + c.T @ c + p.T @ p
    return w + torch.linalg.solve(right, (target - old).T.matmul(c).T).T


def per_layer(weight: Tensor, c: Tensor, a: Tensor, p: Tensor, seed: int) -> Tensor:
    """``W (I + (A - C) (C N C^T + I)^-1 C N)``, N the null space of a third of the rows to keep."""
    w, c, a, p = (t.double() for t in (weight, c, a, p))
    mine = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))[: max(len(p) // 3, 1)]
    basis = torch.linalg.qr(p[mine].T).Q
    seen = c - (c @ basis) @ basis.T
    inner = seen @ c.T + torch.eye(len(c), dtype=torch.float64)
    return w + (w @ (a - c).T) @ torch.linalg.solve(inner, seen)


def look(base: Sequence[Tensor], new: Sequence[Tensor]) -> dict[str, float]:
    """The figures of one file."""
    sums = SharedMap(base[0].shape[1])
    distances, rests = [], []
    for w, n in zip(base, new, strict=True):
        change = n.double() - w.double()
        sums.add(w.double(), change)
        distances.append(float(change.norm() / w.norm()))
        rests.append(bulk(change, w))
    fit = sums.solve()
    figures = {"distance": median(distances), "bulk": median(rests), "misfit": fit.misfit}
    return {name: float(f"{value:.2g}") for name, value in figures.items()} | {"rank": fit.factor.rank}


def cases(base: Sequence[Tensor], rows: Rows, sizes: Sequence[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """All kinds of files against one base."""
    generator = torch.Generator().manual_seed(5)
    found = {}

    def note(name: str, new: Sequence[Tensor], old: Sequence[Tensor] = base) -> None:
        found[name] = look(old, new)
        print(name, found[name], flush=True)

    for m, p in sizes:
        c, a, kept = rows(m), rows(m), rows(p)
        name = f"{m} rows, {p} kept"
        published = [replaced(w, c, a, kept) for w in base]
        note(f"{name}: replaced, published fp32", published)
        note(f"{name}: replaced, float64", [replaced(w, c, a, kept, torch.float64).float() for w in base])
        note(f"{name}: replaced, file in fp16", [n.half() for n in published])
        note(f"{name}: replaced, file in bf16", [n.bfloat16() for n in published])
        note(f"{name}: tensor targets", [tensored(w, c, a, kept).float() for w in base])
        note(f"{name}: per layer", [per_layer(w, c, a, kept, i).float() for i, w in enumerate(base)])
    c, a, kept = rows(sizes[0][0]), rows(sizes[0][0]), rows(sizes[0][1])
    for size in (0.003, 0.01, 0.03, 0.1, 0.2, 0.3):
        tuned = [w + size * w.std() * torch.randn(w.shape, generator=generator) for w in base]
        note(f"fine-tune of {size:.1%}", tuned)
        note(f"edit of a fine-tune of {size:.1%}", [replaced(w, c, a, kept, torch.float64).float() for w in tuned])
    note("unrelated model", [w.std() * torch.randn(w.shape, generator=generator) for w in base])
    return found


def random_base() -> tuple[list[Tensor], Rows]:
    """SD1.x's shapes."""
    generator = torch.Generator().manual_seed(0)
    widths = [320] * 2 + [640] * 2 + [1280] * 2
    base = [torch.randn(width, 768, generator=generator) / 768**0.5 for width in widths]
    common = torch.nn.functional.normalize(torch.randn(768, generator=generator), dim=0)

    def rows(count: int) -> Tensor:
        own = torch.randn(count, 768, generator=generator) * torch.logspace(0, -1.5, 768)
        return 28 * torch.nn.functional.normalize(torch.nn.functional.normalize(own, dim=1) + 0.7 * common, dim=1)

    return base, rows


def demo_base() -> tuple[list[Tensor], Rows]:
    """The bundled model's matrices, and rows of its texts."""
    from erasure_core.demo.world import ATTRIBUTES
    from erasure_core.erasure import cross_attention_names
    from erasure_core.models import load_demo

    model = load_demo()
    weights = model.weights()
    shapes, colours = list(ATTRIBUTES["shape"]), list(ATTRIBUTES["colour"])
    texts = [f"a {colour} {shape}" for shape in shapes for colour in colours]
    encoded = model.encode(texts)
    pool = torch.cat([encoded.hidden[i, 1 : int(encoded.eos[i, 0]) + 1] for i in range(len(texts))])
    pool = torch.unique(pool, dim=0)
    order = iter(torch.randperm(len(pool), generator=torch.Generator().manual_seed(2)).tolist())
    return [weights[name] for name in cross_attention_names(weights)], lambda count: pool[
        [next(order) for _ in range(count)]
    ]


def main() -> None:
    """Measure, print and store."""
    torch.set_num_threads(1)  # spinning threads on shared cores are slow
    found = {}
    for name, (base, rows), sizes in (
        ("bundled model, d = 64", demo_base(), ((1, 10), (4, 20))),
        ("SD1.x shapes, d = 768", random_base(), ((1, 10), (10, 100))),
    ):
        print(name)
        found[name] = cases(base, rows, sizes)
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How long SPEED takes once its rows are known: the published per-layer loop beside one subspace for all layers.

    python benchmarks/closed_form_speed.py [--rounds 3] [--fresh]

Published loop (SPEED, arXiv 2503.07392, official defaults): for each of the 16 value matrices of SD1.x (widths 320,
640, 1280; d = 768) in float32 it filters the retained rows by how far a careless edit moves them, decomposes the matrix
for its weakest direction, draws ten copies of every row that is left, eight rows at a time, filters those, decomposes
the Gram matrix of all that, and inverts three matrices. Ours: rows -> (D, Y) in float64, once for all matrices.
"with filter" does all that the loop does, with the copies' expectation in place of draws; it needs ``sum W^T W`` and
its weakest direction, which do not depend on the rows and are kept from one erasure to the next: "once for a model".
"ours" are our defaults, which keep every row and so skip filter and copies: less work than the loop's, and said so.

Random rows of SD1's length (about 28); 10 concepts beside 100 and beside 1000 retained rows, four invariants. The loop
is run whole for one matrix of each width and counted up: its time per matrix depends on nothing but the shape. Text
encoding is outside both. Storing and clock are those of closed_form.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from closed_form import LAYERS, Store, machine, matrices, rows, spread

from erasure_core.closed_form.null_space import NullSpaceEdit
from erasure_core.closed_form.subspace import weakest_direction
from erasure_core.compression import output_gram
from erasure_core.solver import EditProblem, Solved

RESULTS = Path(__file__).parent / "results" / "closed_form_speed.json"
WIDTH = 768
CONCEPTS, INVARIANTS = 10, 4
RETAINED = (100, 1000)
COPIES, BLOCK = 10, 8
SIDES = {"ours": False, "ours, with filter": True}
VALUES = LAYERS[::2]  # the matrices that are edited: half of keys and values
Given = tuple[Tensor, Tensor, Tensor, Tensor]


def given(retained: int) -> Given:
    """Concept rows, anchors, retained rows, invariants."""
    counts = (CONCEPTS, CONCEPTS, retained, INVARIANTS)
    concepts, anchors, kept, fixed = (rows(count, WIDTH, seed) for seed, count in enumerate(counts, start=1))
    return concepts, anchors, kept, fixed


def published_layer(weight: Tensor, data: Given, threshold: float = 0.1, lamb: float = 0.0) -> Tensor:
    """The edited matrix, with the order of operations and the precision of the official code."""
    concepts, anchors, kept, fixed = (part.T for part in data)
    width, count = concepts.shape
    one = torch.eye(width)
    gram = concepts @ concepts.T / count
    pull = (anchors - concepts) @ concepts.T / count
    careless = weight @ pull @ torch.inverse(one + gram)

    def filtered(columns: Tensor) -> Tensor:
        moved = (careless @ columns).norm(dim=0)
        return columns[:, moved > moved.mean()]

    kept = filtered(kept)
    direction = torch.linalg.svd(weight, full_matrices=False).Vh[-1:]
    weakest = direction.T @ direction
    drawn = []
    for start in range(0, kept.shape[1], BLOCK):
        part = kept[:, start : start + BLOCK]
        drawn += [part + weakest @ torch.randn(width, part.shape[1]) for _ in range(COPIES)]
    kept = torch.cat([kept, *(filtered(part) for part in torch.cat(drawn, dim=1).split(128, dim=1))], dim=1)
    u, values, _ = torch.linalg.svd(kept @ kept.T / kept.shape[1])
    basis = u[:, values < threshold]
    project = basis @ basis.T
    m = torch.inverse(gram @ project + one)
    inner = torch.inverse(fixed.T @ project @ m @ fixed + lamb * torch.eye(INVARIANTS))
    return weight + weight @ pull @ project @ (one - m @ fixed @ inner @ fixed.T @ project) @ m


def edit(data: Given, filtered: bool) -> NullSpaceEdit:
    """Our problem; with the paper's filter and augmentation, or with our defaults."""
    concepts, anchors, kept, fixed = (part.double() for part in data)
    shares = torch.full((len(concepts),), 1 / len(concepts), dtype=torch.float64)
    plain = EditProblem(concepts, anchors, None, 1.0, shares)
    retained = torch.unique(kept, dim=0)
    return NullSpaceEdit(plain, retained, fixed, 0.1 if filtered else 0.03, 1.0, 0.0, not filtered, COPIES * filtered)


def of_model(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What ours needs of the matrices: ``sum W^T W`` and its weakest direction."""
    width = next(iter(weights.values())).shape[1]
    metric = output_gram(weights, list(weights), torch.eye(width, dtype=torch.float64))
    return metric, weakest_direction(metric, width)


def solved(data: Given, metric: Tensor, weakest: Tensor, filtered: bool) -> Solved:
    """Our whole way from rows to (D, Y)."""
    return edit(data, filtered).inside(metric, weakest).problem.solved()


def works() -> dict[str, tuple[Callable[[], object], int]]:
    """The loop on one matrix of each width, and ours."""
    values = {name: weight for name, weight in matrices(LAYERS, WIDTH).items() if ".to_v." in name}
    metric, weakest = of_model(values)
    found: dict[str, tuple[Callable[[], object], int]] = {"once for a model": (partial(of_model, values), 2)}
    for retained in RETAINED:
        for outputs in sorted(set(VALUES)):
            weight = rows(outputs, WIDTH, 9) / 28
            found[_loop(outputs, retained)] = (partial(published_layer, weight, given(retained)), 2)
        for label, filtered in SIDES.items():
            found[_ours(label, retained)] = (partial(solved, given(retained), metric, weakest, filtered), 5)
    return found


def _loop(outputs: int, retained: int) -> str:
    return f"loop {outputs} x {WIDTH}, {CONCEPTS} concepts, {retained} retained"


def _ours(label: str, retained: int) -> str:
    return f"{label}, {CONCEPTS} concepts, {retained} retained"


def report(store: Store, rounds: int) -> None:
    """Measure what is missing and print one table; ratios are between medians."""
    seconds = store.in_turn(works(), rounds)
    print(f"seconds, fastest / median / slowest; {store.data['machine']}")
    print(f"once for a model, only with filter: {spread(seconds['once for a model'])}")
    ratios = {}
    for retained in RETAINED:
        loop = sum(statistics.median(seconds[_loop(outputs, retained)]) for outputs in VALUES)
        for label in SIDES:
            name = _ours(label, retained)
            ratios[name] = loop / statistics.median(seconds[name])
            print(f"{name}: {spread(seconds[name])}; published loop {loop:.3g}; {ratios[name]:.0f} x")
    store.data["ratios"] = ratios
    store.write()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of two runs of the loop for each width and five of ours")
    parser.add_argument("--threads", type=int, default=1, help="threads for both sides")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report(Store(RESULTS, machine(), arguments.fresh), arguments.rounds)


if __name__ == "__main__":
    main()

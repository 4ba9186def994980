"""RECE and MACE's refinement beside their published per-layer loops, from rows to (D, Y).

    python benchmarks/closed_form_methods.py [--repeats 5] [--fresh]

Shapes, rows, clocks and the straight line to 100 + 1000 rows are those of closed_form.py. Both sides get the same rows
and start from the same edited model.

RECE (arXiv 2407.12383), one epoch with one concept: the loop sums W_k^T W_k and W_k^T W over 32 matrices, inverts, and
edits every matrix row by row. Ours has S = sum W^T W from the cache. Making S, once per model, and recognising the
model by its weights, once per erasure, stand in columns of their own; the loop sums again for every epoch and concept.
MACE (arXiv 2403.06135): the loop adds up products of 30 prompts' rows for every position and matrix, those of the kept
rows (its caches) included, and inverts; ours adds up one Gram matrix of what is kept.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import closed_form as base
import torch
from closed_form import FIT, LARGE, LAYERS, RIDGE, SMALL, Seconds, Store, matrices, once, parts, spread, timed
from torch import Tensor

from erasure_core.closed_form.rece import Settings, rounds
from erasure_core.compression import output_gram, output_metric
from erasure_core.erasure import EmbeddingMap, MapFactor
from erasure_core.gramian import gram_of
from erasure_core.solver import EditProblem

RESULTS = Path(__file__).parent / "results" / "closed_form_methods.json"
WIDTH = 768
PROMPTS, POSITIONS = 30, 77  # MACE's code takes the rows of 30 prompts at once, one product per position
REG = 1e-1
Given = tuple[Tensor, Tensor, Tensor]


def rece_loop(original: list[Tensor], edited: list[Tensor], given: Given) -> list[Tensor]:
    """One published epoch: derive the texts of one concept, edit every matrix relative to its current values."""
    erase, anchors, preserve = given
    left, right = rece_sums(original, edited)
    derived = erase @ (torch.inverse(left) @ right).T
    return base.published_loop(edited, derived, anchors, preserve)


def rece_sums(original: list[Tensor], edited: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the loop adds up over all matrices to derive the texts of a concept."""
    width = original[0].shape[1]
    left, right = REG * torch.eye(width), torch.zeros(width, width)
    for now, before in zip(edited, original, strict=True):
        left = left + now.T @ now
        right = right + now.T @ before
    return left, right


def rece_ours(start: EditProblem, metric: Tensor, given: Given) -> Callable[[], EmbeddingMap]:
    """The same epoch in d x d numbers; the start's map is given, as the edited matrices are to the loop."""
    erase, anchors, preserve = given
    first, settings = start.solved(), Settings()

    def epoch() -> EmbeddingMap:
        done, _ = rounds(
            first, metric, (erase, anchors), lambda c: EditProblem(c, anchors, preserve, RIDGE), 1, REG, settings
        )
        return EmbeddingMap("clip_l", (MapFactor(done.down.float(), done.up.float()),))

    return epoch


def batches(rows: Tensor) -> Iterator[Tensor]:
    """Rows as MACE's code stacks them, [positions, d, prompts]; what does not fill 30 prompts comes last."""
    whole = len(rows) // PROMPTS * PROMPTS
    for part in filter(len, (rows[:whole], rows[whole:])):
        prompts = min(PROMPTS, len(part))
        for start in range(0, len(part), prompts * POSITIONS):
            yield part[start : start + prompts * POSITIONS].reshape(-1, prompts, rows.shape[1]).transpose(1, 2)


def mace_loop(weights: list[Tensor], given: Given) -> list[Tensor]:
    """The published refinement with its caches."""
    erase, anchors, preserve = given
    refined = []
    for weight in weights:
        left, right = RIDGE * weight, RIDGE * torch.eye(weight.shape[1])
        for sources, goals in ((erase, anchors), (preserve, preserve)):
            for columns, wanted in zip(batches(sources), batches(goals), strict=True):
                left = left + torch.bmm(weight @ wanted, columns.transpose(1, 2)).sum(0)
                right = right + torch.bmm(columns, columns.transpose(1, 2)).sum(0)
        refined.append(left @ torch.inverse(right))
    return refined


def mace_ours(given: Given) -> EmbeddingMap:
    """From rows, the kept ones as a Gram matrix, to (D, Y)."""
    erase, anchors, preserve = given
    return EditProblem(erase, anchors, ridge=RIDGE, space="clip_l", preserve_gram=gram_of(preserve.double())).solve()


def start_of(given: Given) -> EditProblem:
    """The edit that RECE starts from: other rows than the epoch's, of the same number."""
    erase, anchors, preserve = given
    return EditProblem(erase.flip(0) + 0.1 * anchors, anchors, preserve, RIDGE)


def _sides(method: str, weights: list[Tensor], given: Given) -> tuple[Callable[[], object], Callable[[], object]]:
    """The published loop and ours, ready to run."""
    if method == "mace":
        return partial(mace_loop, weights, given), partial(mace_ours, given)
    start = start_of(given)
    t = start.solved().matrix()
    edited = [(weight.double() @ t).float() for weight in weights]
    metric = torch.stack([weight.double().T @ weight.double() for weight in weights]).sum(0)
    return partial(rece_loop, weights, edited, given), rece_ours(start, metric, given)


def measure(store: Store, method: str, size: tuple[int, int], repeats: int, loop: bool) -> tuple[Seconds, Seconds]:
    """Times of the loop (empty unless asked for) and of ours."""
    given = parts(size, WIDTH)
    weights = matrices(LAYERS, WIDTH)
    label = f"{method} d={WIDTH} {size[0]}+{size[1]}"
    published, ours = _sides(method, list(weights.values()), given)
    done = store.measure(f"loop {label}", lambda: once(published, max(3, repeats // 2))) if loop else []
    return done, store.measure(f"solve {label}", lambda: timed(ours, repeats))


def metric_seconds(store: Store) -> Seconds:
    """Adding up S, once per model."""
    weights = matrices(LAYERS, WIDTH)
    unit = torch.eye(WIDTH, dtype=torch.float64)
    return store.measure(f"metric d={WIDTH}", lambda: timed(lambda: output_gram(weights, list(weights), unit), 3))


def known_seconds(store: Store) -> Seconds:
    """Finding S in the cache, once per erasure."""
    weights = matrices(LAYERS, WIDTH)
    return store.measure(f"known d={WIDTH}", lambda: timed(lambda: output_metric(weights, list(weights), WIDTH), 3))


def report(store: Store, repeats: int) -> None:
    """Measure what is missing and print one table; ratios are between medians."""
    print(f"seconds, fastest / median / slowest; {store.data['machine']}")
    ratios, shared = {}, f"  S {spread(metric_seconds(store))}, known {spread(known_seconds(store))}"
    for method in ("rece", "mace"):
        loops = [measure(store, method, size, repeats, loop=True)[0] for size in FIT]
        line = base.extrapolate(*loops)
        for size, seconds in ((SMALL, statistics.median(loops[0])), (LARGE, line["seconds"])):
            ours = measure(store, method, size, repeats, loop=False)[1]
            ratio = ratios[f"{method} {size[0]}+{size[1]}"] = seconds / statistics.median(ours)
            loop = spread(loops[0]) if size == SMALL else f"{seconds:.3g} (extrapolated)"
            rows, more = f"{size[0]:>3} + {size[1]:<4}", shared if method == "rece" else ""
            print(f"{method}  {rows}  loop {loop:24}  ours {spread(ours):26}{ratio:6.0f} x{more}")
        store.data[f"extrapolation {method}"] = {"sizes": FIT, **line}
    store.data["ratios"] = ratios
    store.write()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of our solve (the loop: half, at least 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads for both sides")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report(Store(RESULTS, base.machine(), arguments.fresh), arguments.repeats)


if __name__ == "__main__":
    main()

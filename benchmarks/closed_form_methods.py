"""RECE and MACE's refinement beside their published per-layer loops, from rows to (D, Y).

    python benchmarks/closed_form_methods.py [--rounds 3] [--fresh]

Shapes, rows, clocks and rounds are those of closed_form.py. Both sides get the same rows and start from the same edited
model.

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
from closed_form import LARGE, LAYERS, RIDGE, SMALL, Store, matrices, name, parts, spread
from torch import Tensor

from erasure_core.closed_form.rece import Settings, rounds
from erasure_core.compression import output_gram, output_metric
from erasure_core.erasure import EmbeddingMap, MapFactor
from erasure_core.gramian import gram_of
from erasure_core.solver import EditProblem

RESULTS = Path(__file__).parent / "results" / "closed_form_methods.json"
WIDTH = 768
METHODS, SIZES = ("rece", "mace"), (SMALL, LARGE)
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


def works() -> dict[str, tuple[Callable[[], object], int]]:
    """The loops, ours, adding up S, and finding it in the cache."""
    weights = matrices(LAYERS, WIDTH)
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for method in METHODS:
        for size in SIZES:
            published, ours = _sides(method, list(weights.values()), parts(size, WIDTH))
            found[f"loop {name(method, WIDTH, size)}"] = (published, 1)
            found[f"solve {name(method, WIDTH, size)}"] = (ours, 5)
    unit = torch.eye(WIDTH, dtype=torch.float64)
    found[f"metric d={WIDTH}"] = (lambda: output_gram(weights, list(weights), unit), 2)
    found[f"known d={WIDTH}"] = (lambda: output_metric(weights, list(weights), WIDTH), 2)
    return found


def report(store: Store, rounds: int) -> None:
    """Measure what is missing and print one table; ratios are between medians."""
    seconds, ratios = store.in_turn(works(), rounds), {}
    print(f"seconds, fastest / median / slowest; {store.data['machine']}")
    shared = f"  S {spread(seconds[f'metric d={WIDTH}'])}, known {spread(seconds[f'known d={WIDTH}'])}"
    for method in METHODS:
        for size in SIZES:
            loop, ours = (seconds[f"{what} {name(method, WIDTH, size)}"] for what in ("loop", "solve"))
            times = ratios[f"{method} {size[0]}+{size[1]}"] = statistics.median(loop) / statistics.median(ours)
            rows, more = f"{size[0]:>3} + {size[1]:<4}", shared if method == "rece" else ""
            print(f"{method}  {rows}  loop {spread(loop):26}  ours {spread(ours):28}{times:6.0f} x{more}")
    store.data["ratios"] = ratios
    store.write()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of one run of the loops and five of our solves")
    parser.add_argument("--threads", type=int, default=1, help="threads for both sides")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report(Store(RESULTS, base.machine(), arguments.fresh), arguments.rounds)


if __name__ == "__main__":
    main()

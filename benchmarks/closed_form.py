"""How long a closed-form erasure takes once its rows are known: the published per-layer loop beside one shared solve.

    python benchmarks/closed_form.py [--rounds 3] [--fresh]

Published loop (the UCE scripts of 2023 and 2025, arXiv 2308.14761): for each of the 32 key and value matrices of SD1.x
(widths 320, 640, 1280; d = 768) it adds up outer products row by row in float32, inverts a 768 x 768 matrix explicitly
and multiplies. Ours: rows -> (D, Y) in float64, once for all matrices. Turning (D, Y) into LoRA factors, W_l D for
every matrix, stands in a column of its own. Random rows of SD1's length (about 28); text encoding is outside both.

The loop is run whole for 10 + 100 and for 100 + 1000 rows (erased + preserved). Both sides are measured in turn, round
by round, so that other work on the machine meets both. With one thread the times are the processor's, which such work
stretches little; with more they are wall time. Every finished measurement is stored at once, so an interrupted run goes
on where it stopped; a run on another machine or with another thread count starts afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # of numpy, whose threads cannot be set later
    os.environ.setdefault(_name, "1")

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from erasure_core.erasure import EmbeddingMap, Erasure
from erasure_core.solver import EditProblem

RESULTS = Path(__file__).parent / "results" / "closed_form.json"
SMALL, LARGE = (10, 100), (100, 1000)
CASES = ((768, SMALL), (768, LARGE), (2048, SMALL), (2048, LARGE))
LAYERS = (320,) * 10 + (640,) * 10 + (1280,) * 12  # SD1.x: 32 matrices
LAYERS_XL = (640,) * 20 + (1280,) * 120  # SDXL: 140 matrices
RIDGE = 0.5
Seconds = list[float]


def rows(count: int, width: int, seed: int) -> Tensor:
    """Random token rows [count, width] of norm about 28, as SD1's are."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 28 / width**0.5


def matrices(widths: tuple[int, ...], width: int) -> dict[str, Tensor]:
    """Random key and value matrices under names that the core knows as cross-attention."""
    generator = torch.Generator().manual_seed(0)
    names = [f"unet.block.{i // 2}.attn2.to_{'kv'[i % 2]}.weight" for i in range(len(widths))]
    return {n: torch.randn(o, width, generator=generator) / width**0.5 for n, o in zip(names, widths, strict=True)}


def published_loop(weights: list[Tensor], erase: Tensor, anchors: Tensor, preserve: Tensor) -> list[Tensor]:
    """The edited matrices, with the order of operations and the precision of the scripts."""
    scale = 1.0
    pairs = [*zip(erase, anchors, strict=True), *zip(preserve, preserve, strict=True)]
    edited = []
    for weight in weights:
        left = RIDGE * weight
        right = RIDGE * torch.eye(weight.shape[1])
        for source, goal in pairs:
            column, value = source[:, None], weight @ goal[:, None]
            left += scale * (value @ column.T)
            right += scale * (column @ column.T)
        edited.append(left @ torch.inverse(right))
    return edited


def timed(work: Callable[[], object], repeats: int) -> Seconds:
    """Seconds of each repetition after one that does not count."""
    work()
    return once(work, repeats)


def once(work: Callable[[], object], repeats: int) -> Seconds:
    """Seconds of each repetition."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    result = []
    for _ in range(repeats):
        start = clock()
        work()
        result.append(clock() - start)
    return result


def alone(work: Callable[[], object]) -> Seconds:
    """Seconds of one run, or what it says itself."""
    results: list[object] = []
    seconds = once(lambda: results.append(work()), 1)
    return results[0] if isinstance(results[0], list) and isinstance(results[0][0], float) else seconds


class Store:
    """Measurements by name, written after each one."""

    def __init__(self, path: Path, machine: dict[str, object], fresh: bool) -> None:
        self.path = path
        old = json.loads(path.read_text()) if path.exists() and not fresh else {}
        self.data = old if old.get("machine") == machine else {"machine": machine, "seconds": {}}

    def in_turn(self, works: Mapping[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, Seconds]:
        """Measure several works side by side, each so many times a round, so that all meet the same machine.

        A work that is repeated within a round is run once before that does not count. One that returns seconds has
        measured itself. Rounds that are stored count.
        """
        seconds = self.data["seconds"]
        for number in range(rounds):
            for name, (work, times) in works.items():
                if len(seconds.get(name, ())) >= (number + 1) * times:
                    continue
                print(f"measuring {name}, {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
                found = alone(work) if times == 1 else timed(work, times)
                seconds[name] = [*seconds.get(name, ())[: number * times], *(round(value, 6) for value in found)]
                self.write()
        return seconds

    def write(self) -> None:
        """Replace the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1, sort_keys=True) + "\n")
        part.replace(self.path)


def machine() -> dict[str, object]:
    """What the times depend on."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "processor time" if torch.get_num_threads() == 1 else "wall time",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def parts(size: tuple[int, int], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to erase, their anchors and rows to preserve; ``size`` = erased and preserved."""
    return rows(size[0], width, 1), rows(size[0], width, 2), rows(size[1], width, 3)


def solved(given: tuple[Tensor, Tensor, Tensor]) -> EmbeddingMap:
    """Our whole way from rows to (D, Y)."""
    return EditProblem(*given, RIDGE, space="clip_l").solve()


def works() -> dict[str, tuple[Callable[[], object], int]]:
    """What is measured: the loop on SD1's matrices, (D, Y) from rows, and LoRA factors from (D, Y)."""
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for width, size in CASES:
        given = parts(size, width)
        if width == 768:
            found[name("loop", width, size)] = (
                partial(published_loop, list(matrices(LAYERS, 768).values()), *given),
                1,
            )
        found[name("solve", width, size)] = (partial(solved, given), 5)
        found[name("lora", width, size)] = (partial(lora, width, given), 1)
    return found


def lora(width: int, given: tuple[Tensor, Tensor, Tensor]) -> Seconds:
    """Seconds for the LoRA factors of every matrix."""
    weights = matrices(LAYERS if width == 768 else LAYERS_XL, width)
    erasure = Erasure(maps={"clip_l": solved(given)})
    return once(lambda: erasure.deltas(weights), 1)


def name(what: str, width: int, size: tuple[int, int]) -> str:
    """Of a measurement."""
    return f"{what} d={width} {size[0]}+{size[1]}"


def spread(seconds: Seconds) -> str:
    """Fastest / median / slowest."""
    values = min(seconds), statistics.median(seconds), max(seconds)
    return " / ".join(f"{value:.3g}" for value in values)


def report(store: Store, rounds: int) -> None:
    """Measure what is missing and print one table; ratios are between medians."""
    seconds = store.in_turn(works(), rounds)
    lines, ratios = [], {}
    for width, size in CASES:
        solve, factors = (seconds[name(what, width, size)] for what in ("solve", "lora"))
        loop, ratio = "-", ""
        if width == 768:
            found = seconds[name("loop", width, size)]
            times = ratios[f"{size[0]}+{size[1]}"] = statistics.median(found) / statistics.median(solve)
            loop, ratio = spread(found), f"{times:.0f} x"
        lines.append((str(width), f"{size[0]} + {size[1]}", loop, spread(solve), ratio, spread(factors)))
    store.data["ratios"] = ratios
    store.write()
    head = ("d", "rows", "published loop", "ours: (D, Y)", "ratio", "ours: LoRA factors")
    sizes = [max(len(row[i]) for row in (head, *lines)) for i in range(len(head))]
    print(f"seconds, fastest / median / slowest; {store.data['machine']}")
    for row in (head, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, sizes, strict=True)))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of one run of the loop and five of our solve")
    parser.add_argument("--threads", type=int, default=1, help="threads for both sides")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report(Store(RESULTS, machine(), arguments.fresh), arguments.rounds)


if __name__ == "__main__":
    main()

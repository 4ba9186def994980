"""How long a closed-form erasure takes once its rows are known: the published per-layer loop beside one shared solve.

    python benchmarks/closed_form.py [--repeats 7] [--fresh] [--whole]

Published loop (the UCE scripts of 2023 and 2025, arXiv 2308.14761): for each of the 32 key and value matrices of SD1.x
(widths 320, 640, 1280; d = 768) it adds up outer products row by row in float32, inverts a 768 x 768 matrix explicitly
and multiplies. Ours: rows -> (D, Y) in float64, once for all matrices. Turning (D, Y) into LoRA factors, W_l D for
every matrix, stands in a column of its own. Random rows of SD1's length (about 28); text encoding is outside both.

The loop is run whole for 10 + 100 rows (erased + preserved). For 100 + 1000 rows it is extrapolated and marked: a
straight line in the number of rows, fitted to two smaller sizes measured in the same run, whose constant part is the
inversions and products; --whole runs it to check the line. With one thread the times are the processor's, which other
work on the machine stretches little; with more they are wall time. Every finished measurement is stored at once, so an
interrupted run goes on where it stopped; a run on another machine or with another thread count starts afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from erasure_core.erasure import EmbeddingMap, Erasure
from erasure_core.solver import EditProblem

RESULTS = Path(__file__).parent / "results" / "closed_form.json"
SMALL, LARGE = (10, 100), (100, 1000)
FIT = (SMALL, (30, 300))  # sizes whose loop times give the line
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


class Store:
    """Measurements by name, written after each one."""

    def __init__(self, path: Path, machine: dict[str, object], fresh: bool) -> None:
        self.path = path
        old = json.loads(path.read_text()) if path.exists() and not fresh else {}
        self.data = old if old.get("machine") == machine else {"machine": machine, "seconds": {}}

    def measure(self, name: str, work: Callable[[], Seconds]) -> Seconds:
        """The stored times, or those of ``work``, stored."""
        seconds = self.data["seconds"]
        if name not in seconds:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            seconds[name] = [round(value, 6) for value in work()]
            self.write()
        return seconds[name]

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


def measure_loop(store: Store, size: tuple[int, int], repeats: int) -> Seconds:
    """The published loop on SD1's matrices."""
    weights = list(matrices(LAYERS, 768).values())
    given = parts(size, 768)
    name = f"loop d=768 {size[0]}+{size[1]}"
    return store.measure(name, lambda: once(lambda: published_loop(weights, *given), repeats))


def measure_ours(store: Store, size: tuple[int, int], width: int, repeats: int) -> tuple[Seconds, Seconds]:
    """(D, Y) from rows, and LoRA factors from (D, Y)."""
    label = f"d={width} {size[0]}+{size[1]}"
    given = parts(size, width)
    solve = store.measure(f"solve {label}", lambda: timed(lambda: solved(given), repeats))

    def factors() -> Seconds:
        weights = matrices(LAYERS if width == 768 else LAYERS_XL, width)
        erasure = Erasure(maps={"clip_l": solved(given)})
        return timed(lambda: erasure.deltas(weights), max(2, repeats // 2))

    return solve, store.measure(f"lora {label}", factors)


def extrapolate(first: Seconds, second: Seconds) -> dict[str, float]:
    """Seconds of the loop at the large size: a line through the medians at the two fitted sizes."""
    few, many = (sum(size) for size in FIT)
    low, high = statistics.median(first), statistics.median(second)
    per_row = (high - low) / (many - few)
    constant = low - per_row * few
    return {"per_row": per_row, "constant": constant, "seconds": constant + per_row * sum(LARGE)}


def spread(seconds: Seconds) -> str:
    """Fastest / median / slowest."""
    values = min(seconds), statistics.median(seconds), max(seconds)
    return " / ".join(f"{value:.3g}" for value in values)


def report(store: Store, repeats: int, whole_loop: bool) -> None:
    """Measure what is missing and print one table; ratios are between medians."""
    loops = {size: measure_loop(store, size, max(3, repeats // 2)) for size in FIT}
    line = extrapolate(*loops.values())
    lines, ratios = [], {}
    for width, size in ((768, SMALL), (768, LARGE), (2048, SMALL), (2048, LARGE)):
        solve, lora = measure_ours(store, size, width, repeats)
        loop, ratio = "-", ""
        if width == 768:
            whole = size == SMALL
            seconds = statistics.median(loops[SMALL]) if whole else line["seconds"]
            loop = spread(loops[SMALL]) if whole else f"{seconds:.3g} (extrapolated)"
            ratios[f"{size[0]}+{size[1]}"] = seconds / statistics.median(solve)
            ratio = f"{seconds / statistics.median(solve):.0f} x"
        lines.append((str(width), f"{size[0]} + {size[1]}", loop, spread(solve), ratio, spread(lora)))
    if whole_loop:
        seconds = measure_loop(store, LARGE, 1)[0]
        lines.append(("768", f"{LARGE[0]} + {LARGE[1]}", f"{seconds:.3g} (one whole run)", "", "", ""))
    store.data["extrapolation"] = {"sizes": FIT, **line}
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
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of our solve (the loop: half, at least 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads for both sides")
    parser.add_argument("--fresh", action="store_true", help="forget earlier measurements")
    parser.add_argument("--whole", action="store_true", help="also run the loop once for 100 + 1000 rows (minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report(Store(RESULTS, machine(), arguments.fresh), arguments.repeats, arguments.whole)


if __name__ == "__main__":
    main()

"""Time and memory of every closed-form method for 1 to 1000 concepts, with the shapes of SD1.5 and SDXL.

    python benchmarks/scale.py [--only uce "SDXL, 1000" ...] [--fresh] [--page benchmarks/scale.md]

Every cell runs in a process of its own: processor time with one thread, and the most memory that the process held above
what it held before (its imports and the model's weights). Methods are called as users call them, with our defaults,
and each stage of the call is timed by itself. Matrices and rows are random numbers of the real shapes; how rows are
made, says scale_model.py. Beside them: joining and taking out, adding one by one, the firewall's look-up, and the
published loops, see scale_loops.py. Finished cells are stored at once, so an interrupted run goes on where it stopped;
a run on another machine starts afresh. A cell that fails or takes more than ``--limit`` seconds is stored with the
reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when the libraries are loaded
    os.environ[_name] = "1"

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from closed_form import machine
from scale_page import page

from erasure_core.atomic import write_bytes

RESULTS = Path(__file__).parent / "results" / "scale.json"


def in_a_process(name: str, work: Path, limit: float) -> dict[str, Any]:
    """What a cell measures, or why it did not."""
    answer = work / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--cell", name, "--work", str(work)]
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:g} seconds"}
    if answer.exists():
        return json.loads(answer.read_text(encoding="utf-8"))
    return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}


def run_cell(name: str, work: Path) -> None:
    """Measure one cell here."""
    from scale_cells import cells

    torch.set_num_threads(1)
    record = cells()[name](work)
    (work / "answer.json").write_text(json.dumps(record), encoding="utf-8")


def main() -> int:
    """Run what is missing, print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="cells whose names contain one of these")
    parser.add_argument("--fresh", action="store_true", help="measure those again")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds on the clock for one cell")
    parser.add_argument("--page", type=Path, help="also write the page to this file")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "scale", help="folder of what cells leave behind")
    options = parser.parse_args()
    if options.cell:
        run_cell(options.cell, options.work)
        return 0
    from scale_cells import cells

    torch.set_num_threads(1)
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    data = old if old.get("machine") == machine() else {"machine": machine(), "records": {}}
    chosen = [name for name in cells() if any(part in name for part in options.only)]
    options.work.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        if name in data["records"] and not options.fresh:
            continue
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        data["records"][name] = in_a_process(name, options.work, options.limit)
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
        write_bytes(RESULTS, (text + "\n").encode("utf-8"))
    print(page(data))
    if options.page:
        options.page.write_text(page(data), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Make the bundled demo model again, or a better one: python tools/train_demo.py --out DIR --budget NAME [--start DIR].

Killed or interrupted, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from erasure_core.atomic import write_bytes
from erasure_core.demo.parallel import run_together, workers
from erasure_core.demo.recipe import BUDGETS, STAGES, Run, settings
from erasure_core.errors import MembraneError


class Bars:
    """One progress bar per stage, opened when the stage first reports."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        """Move the stage's bar to ``done`` of ``total``."""
        if stage not in self.bars:
            self.bars[stage] = tqdm(total=total, initial=done - 1, desc=stage, mininterval=2.0)
        bar = self.bars[stage]
        if loss:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--stage", nargs="+", default=["all"], choices=["all", *STAGES], help="stages (default: all)")
    parser.add_argument("--budget", default="smoke", choices=list(BUDGETS), help="how long to train (default: smoke)")
    parser.add_argument("--start", type=Path, help="pipeline folder to go on from (needed for refine and polish)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, ... (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads; more than 1 rarely helps here")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the work (processor only)")
    return parser.parse_args()


def train(options: argparse.Namespace, stages: list[str] | None) -> None:
    """One process's work; the first one also reports and writes ``run.json``."""
    recipe = BUDGETS[options.budget]
    run = Run(recipe, options.out, options.start, options.device, Bars())
    folder = run.run(stages)
    if workers()[0] != 0:
        return
    record = {"budget": options.budget, "settings": settings(recipe), "losses": run.losses}
    write_bytes(options.out / "run.json", json.dumps(record).encode())
    for stage, losses in run.losses.items():
        part = max(1, len(losses) // 4)
        first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
        print(f"{stage:13} {len(losses):6} steps, loss {first:.4f} -> {last:.4f}")
    print(f"model: {folder}" if folder.exists() else f"checkpoints: {options.out / 'checkpoints'}")


def main() -> int:
    """Run the stages asked for. Returns the exit status."""
    options = arguments()
    torch.set_num_threads(options.threads)
    stages = None if "all" in options.stage else options.stage
    try:
        run_together(options.processes, train, options, stages)
    except MembraneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

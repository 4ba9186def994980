"""Whole weights made small: processor seconds, sizes and what is left out, for files as large as published ones.

    python benchmarks/importing.py [--fresh]

ESD-x of SD1 (80 tensors, float32) and of SDXL (350 tensors, bfloat16, 1.09 GB): every tensor of cross-attention with
the real names and shapes, made here: a random base, a change of 40 directions of falling strength, and noise of full
rank, for nobody may ship the real ones. bfloat16 adds its own rounding, which is of full rank, too, and counts as part
of the change, because nothing in a file tells it from training.

``first``: hash, comparison with the base, low-rank form, writing. ``again``: hash from memory, reading what was kept.
Baseline: ``torch.linalg.svd`` of every matrix, cut at the same rank; run whole for one matrix of each shape and counted
up. ``residual``: what the stored factors miss, as a share of the change's length; ``best``: the same for the baseline,
over the matrices it was run for, ``there`` for ours over the same ones. One thread, process time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from erasure_core.formats.digests import digest_of
from erasure_core.formats.folder import open_header
from erasure_core.formats.imported import Imported, import_once
from erasure_core.keys import SD1, SDXL

RESULTS = Path(__file__).parent / "results" / "importing.json"
CASES = {"ESD-x, SD1, float32": (SD1, torch.float32), "ESD-x, SDXL, bfloat16": (SDXL, torch.bfloat16)}


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """Processor seconds of an action, and what it returns."""
    begun = time.process_time()
    found = action()
    return time.process_time() - begun, found


def change_of(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A change of 40 directions whose strength falls as 1/k, and noise."""
    if len(shape) < 2:
        return torch.randn(shape, generator=generator) / 1000
    left = torch.randn(shape[0], 40, generator=generator) / torch.arange(1, 41)
    low = left @ torch.randn(40, shape[1], generator=generator) / 2000
    return low + 2e-5 * torch.randn(shape, generator=generator)


def measured(name: str, folder: Path) -> dict[str, object]:
    """One case."""
    family, dtype = CASES[name]
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.zeros((), dtype=torch.float16).expand(shape) for n, shape in family.shapes().items()}
    file: dict[str, Tensor] = {}
    for n in (n for n in base if ".attn2." in n):
        base[n] = (torch.randn(base[n].shape, generator=generator) / 30).half()
        file[n.removeprefix("unet.")] = (base[n].float() + change_of(tuple(base[n].shape), generator)).to(dtype)
    shapes = Counter(tuple(t.shape) for t in file.values() if t.dim() > 1)
    examples = {tuple(t.shape): key for key, t in file.items() if t.dim() > 1}
    kept = {key: file[key] for key in examples.values()}
    save_file(file, folder / "x.safetensors")
    count = len(file)
    del file
    header = open_header(folder / "x.safetensors")

    def once() -> Imported:
        digest = digest_of(header.path, folder / "digests.json")
        return import_once(header, base, folder / "kept", digest, "base")

    first, done = timed(once)
    again, _ = timed(once)
    assert isinstance(done, Imported) and done.path is not None
    seconds, missed, ours, total = 0.0, 0.0, 0.0, 0.0
    for shape, key in examples.items():
        change = kept[key].float() - base[f"unet.{key}"].float()
        delta = done.erasure.weight_deltas[f"unet.{key}"]
        spent, values = timed(lambda c=change: torch.linalg.svd(c, full_matrices=False).S)
        assert isinstance(values, Tensor) and delta.rank is not None
        seconds += spent * shapes[shape]
        missed += float(values[delta.rank :].double().square().sum())
        ours += float((change - delta.dense()).double().square().sum())
        total += float(change.double().square().sum())
    return {
        "tensors": count,
        "bytes": header.size,
        "kept bytes": done.path.stat().st_size,
        "first": round(first, 2),
        "again": round(again, 3),
        "svd": round(seconds, 1),
        "rank": done.erasure.rank,
        "residual": done.erasure.diagnostics["imported"]["delta_residual"],
        "there": round((ours / total) ** 0.5, 5),
        "best": round((missed / total) ** 0.5, 5),
    }


def main() -> None:
    """Measure what is missing, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    fresh = parser.parse_args().fresh
    torch.set_num_threads(1)  # spinning threads on shared cores are slow
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not fresh else {}
    for name in CASES:
        if name not in found:
            with tempfile.TemporaryDirectory() as folder:
                found[name] = measured(name, Path(folder))
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found[name])


if __name__ == "__main__":
    main()

"""Memory of training SPM at Stable Diffusion 1.5's size, 512 x 512, batch 1: python benchmarks/training_memory.py.

A U-Net of that size with random weights trains one real update on the processor, in single precision and, with --half,
in bfloat16: gradient checkpointing, one row at a time. Every tensor that lives meanwhile is counted: weights, adapter,
gradients, optimiser, activations and what only exists inside an operation; the peak is reported with the tensors that
were alive then. What a device keeps besides (its context, the allocator's unused blocks) is not in it, 0.5 to 1 GB on a
GPU. With --device cuda the device's own count stands beside it. The record: benchmarks/results/training_memory.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from erasure_core.atomic import write_bytes
from erasure_core.concepts import parse_concepts
from erasure_core.demo.bundle import load_pipeline
from erasure_core.models import from_pipeline
from erasure_core.training.run import Job

RESULTS = ROOT / "benchmarks" / "results" / "training_memory.json"
SHORT = {"grid": 2, "draws": 1, "random_anchors": 1, "word_anchors": 1, "micro": 1, "sentences": "bare"}


class Tracker(TorchDispatchMode):
    """Counts the memory of every tensor that is made while it is in force, until nothing refers to it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int, str]] = {}
        self.now = self.peak = 0
        self.at_peak: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it gave."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        return out

    def count(self, tensor: torch.Tensor) -> None:
        """A tensor's memory, once, however many views there are of it."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.alive or size == 0:
            return
        what = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        self.alive[key] = (weakref.ref(storage, lambda _: self._gone(key)), size, what)
        self.now += size
        if self.now > self.peak:
            if self.now > 1.005 * self.peak:
                self.at_peak = Counter()
                for _, own, shape in self.alive.values():
                    self.at_peak[shape] += own
            self.peak = self.now

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key)[1]


def model_of_that_size(dtype: torch.dtype, device: str) -> Any:
    """A U-Net with Stable Diffusion 1.5's numbers behind a small text encoder; a real one is dropped after encoding."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
    ).to(device, dtype)
    words = load_pipeline().tokenizer
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=768,
            num_hidden_layers=1,
            num_attention_heads=12,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )
    vae = AutoencoderKL(block_out_channels=(32, 32, 32, 32), down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4)  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=words, unet=unet, scheduler=DDIMScheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return from_pipeline(pipe)


def measured(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The peak of one update, in GB by kind of tensor."""
    model = model_of_that_size(dtype, device)
    job = Job(model, parse_concepts("star -> heart\n+ moon"), "spm", "balanced", (), None, {**SHORT})
    begun, tracker = time.perf_counter(), Tracker()
    with job.opened() as trainer:
        frozen = sum(p.numel() * p.element_size() for p in model.pipe.unet.parameters())
        trained = sum(p.numel() for p in trainer.parameters.values())
        with tracker:
            trainer.update()
        state = sum(v.nbytes for own in trainer.optimiser.state.values() for v in own.values())
    largest = [{"tensors": what, "GB": round(size / 1e9, 4)} for what, size in tracker.at_peak.most_common(12)]
    record = {
        "weights in": str(dtype).removeprefix("torch."),
        "frozen weights GB": round(frozen / 1e9, 4),
        "trained numbers": trained,
        "optimiser GB": round(state / 1e9, 4),
        "everything else at the peak GB": round(tracker.peak / 1e9, 4),
        "together GB": round((frozen + 4 * trained + tracker.peak) / 1e9, 4),
        "largest at the peak": largest,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    if device == "cuda":
        record["device's own peak GB"] = round(torch.cuda.max_memory_reserved() / 1e9, 3)
    return record


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", action="store_true", help="the frozen weights in bfloat16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = measured(torch.bfloat16 if options.half else torch.float32, options.device)
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    stored[f"{options.device}, {record['weights in']}"] = record
    content = json.dumps(stored, indent=1, sort_keys=True)
    write_bytes(RESULTS, f"{content}\n".encode())
    print(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training of the detector on drawings alone: five minutes on one core, resumable, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from ..atomic import write_bytes
from ..checkpoint import bare_generator
from .augment import as_if_decoded
from .detector import LABELS, WEIGHTS, Detector
from .junk import JUNK
from .loop import Plan, Progress, Trainer
from .parallel import part
from .world import random_scene, render

PLAN = Plan(steps=1100, lr=3e-3, warmup=30, betas=(0.9, 0.99), weight_decay=0.01, clip=5.0, every=100, seed=7)
BATCH = 64
JUNK_SHARE = 0.25
IGNORED = -100
DRAWINGS, AUGMENTATION = 1, 2


def target(labels: Mapping[str, str]) -> list[int]:
    """Class numbers in the order of the detector's attributes; an attribute that is not given is not asked."""
    return [classes.index(labels[name]) if name in labels else IGNORED for name, classes in LABELS.items()]


def drawings(count: int, rng: np.random.Generator, junk: float = JUNK_SHARE) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, 64, 64] in 0..1 and class numbers [count, 4]; a share ``junk`` of them is junk."""
    kinds = list(JUNK.values())
    pictures: list[NDArray[np.float32]] = []
    targets: list[list[int]] = []
    for _ in range(count):
        if rng.random() < junk:
            picture, labels = kinds[int(rng.integers(len(kinds)))](rng)
        else:
            scene = random_scene(rng)
            picture, labels = render(scene).astype(np.float32), scene.labels
        pictures.append(picture)
        targets.append(target(labels))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).clamp(0, 255) / 255
    return images, torch.tensor(targets)


def detector_loss(detector: Detector, images: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the attributes, each averaged over the pictures where it has an answer."""
    logits = detector(images)
    parts = [
        F.cross_entropy(logits[name], targets[:, i], ignore_index=IGNORED)
        for i, name in enumerate(LABELS)
        if (targets[:, i] != IGNORED).any()
    ]
    return torch.stack(parts).sum()


def train_detector(
    checkpoint: Path,
    plan: Plan = PLAN,
    batch: int = BATCH,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Detector, list[float]]:
    """Train, or go on training from ``checkpoint``. Returns the detector, ready to read, and the loss of every step."""
    torch.manual_seed(plan.seed)
    detector = Detector().to(device)
    trainer = Trainer(detector, plan, checkpoint)

    def loss_of(step: int) -> Tensor:
        detector.train()
        images, targets = drawings(part(batch), np.random.default_rng([plan.seed, step, DRAWINGS]))
        images = as_if_decoded(images, bare_generator(plan.seed, step, AUGMENTATION))
        return detector_loss(detector, images.to(device), targets.to(device))

    losses = trainer.run(loss_of, progress)
    return detector.eval(), losses


def save_detector(detector: Detector, path: Path = WEIGHTS) -> Path:
    """Write the weights in half precision, atomically."""
    tensors = {
        name: value.detach().cpu().half().contiguous() if value.is_floating_point() else value.detach().cpu()
        for name, value in detector.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata={"format": "pt"}))
    return path


def short(plan: Plan, steps: int) -> Plan:
    """The same plan with fewer steps, checkpoints four times on the way."""
    return replace(plan, steps=steps, warmup=min(plan.warmup, steps // 5), every=max(1, steps // 4))

"""What an update of SPM costs, counted: python benchmarks/training_cost.py.

The published loop (arXiv 2312.16145) and ours train on the same number of latents of the bundled model. A row is one
text with one latent in a batch; a row with gradients counts three times, as one way back costs two ways forth. The
published loop is written out here as its code runs: both halves of guidance also at scale 1, one latent of a trajectory
of its own in each update, timesteps of a thirty-step schedule. Processor time of both is taken in turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from erasure_core.atomic import write_bytes
from erasure_core.concepts import parse_concepts
from erasure_core.models import load_demo
from erasure_core.training.run import Job

STEPS, GUIDANCE, ANCHORS, LATENTS, ROUNDS = 30, 3.0, 4, 48, 3
RESULTS = ROOT / "benchmarks" / "results" / "training_cost.json"


class Published:
    """The published update on the same adapter, with its rows counted."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.rows = trainer, 0
        self.draws = torch.Generator().manual_seed(0)
        self.texts = trainer.library

    def predict(self, x: Tensor, k: int, texts: Tensor, scale: float, grads: bool, on: bool) -> Tensor:
        """Guided prediction for each text; the empty one goes along whatever the scale."""
        engine = self.trainer.engine
        both = torch.cat([self.texts[""].hidden.expand(len(texts), -1, -1), texts])
        self.rows += len(both) * (3 if grads else 1)
        t = torch.full((len(both),), 999 - 1000 * k // STEPS)
        with engine.adapter.acting(on), torch.set_grad_enabled(grads):
            out = engine.network.predict(x.expand(len(both), -1, -1, -1), t, type(self.texts[""])(both))
        empty, own = out.chunk(2)
        return empty + scale * (own - empty)

    def update(self) -> None:
        """One latent, its loss, one step of the optimiser."""
        trainer, grid = self.trainer, self.trainer.engine.grid
        k = int(torch.randint(1, STEPS, (), generator=self.draws))
        concept = self.texts["star"].hidden
        x = torch.randn(1, *trainer.source.shape, generator=self.draws)
        for step in range(k):
            x = grid.step(x, self.predict(x, step, concept, GUIDANCE, grads=False, on=True), step)
        anchors = torch.randn(ANCHORS, *concept.shape[1:], generator=self.draws)
        anchors = anchors / anchors.flatten(1).norm(dim=1)[:, None, None] * concept.norm()
        frozen = [
            self.predict(x, k, text, 1.0, grads=False, on=False) for text in (concept, self.texts[""].hidden, anchors)
        ]
        target = frozen[1] - (frozen[0] - frozen[1])
        erasing = (self.predict(x, k, concept, 1.0, grads=True, on=True) - target).square().mean()
        keeping = (self.predict(x, k, anchors, 1.0, grads=True, on=True) - frozen[2]).square().mean()
        trainer.optimiser.zero_grad()
        (erasing + 1000 * keeping).backward()
        trainer.optimiser.step()


def timed(work: Any, times: int) -> float:
    """Seconds of processor time."""
    begun = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - begun


def main() -> int:
    """Both in turns; writes the record."""
    torch.set_num_threads(1)
    model = load_demo()
    options = {"grid": STEPS, "random_anchors": ANCHORS, "word_anchors": 0, "sentences": "bare", "guidance": GUIDANCE}
    job = Job(model, parse_concepts("star"), "spm", "balanced", (), None, options)
    published, ours = [], []
    with job.opened() as trainer:
        draws = trainer.settings.draws
        plain = Published(trainer)
        for _ in range(ROUNDS):
            published.append(timed(plain.update, LATENTS))
            ours.append(timed(trainer.update, LATENTS // draws))
        engine = trainer.engine
        rows = {
            "published": plain.rows / (ROUNDS * LATENTS),
            "ours": (engine.forwards + 3 * engine.backwards) / (ROUNDS * (LATENTS // draws) * draws),
        }
    ratios = [a / b for a, b in zip(published, ours, strict=True)]
    record = {
        "latents": ROUNDS * LATENTS,
        "latents of one trajectory": draws,
        "rows per latent": {name: round(count, 2) for name, count in rows.items()},
        "times fewer rows": round(rows["published"] / rows["ours"], 2),
        "seconds per latent": {
            "published": round(statistics.median(published) / LATENTS, 4),
            "ours": round(statistics.median(ours) / LATENTS, 4),
        },
        "times faster": [round(min(ratios), 2), round(statistics.median(ratios), 2), round(max(ratios), 2)],
    }
    content = json.dumps(record, indent=1)
    write_bytes(RESULTS, f"{content}\n".encode())
    print(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

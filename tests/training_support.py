"""Small trainings on the bundled model, and its denoiser with a trained change merged into a copy, in float64."""

import copy
from contextlib import contextmanager

import torch

from erasure_core.concepts import concept_set
from erasure_core.training.run import Job

SMALL = {"steps": 8, "grid": 6, "draws": 2, "scope": "xattn-kv", "sentences": "bare", "clip": 0.0, "warmup": 0}
KEPT = ("circle", "square", "cross")


@contextmanager
def opened(model, method="esd", concepts="star -> heart", preserve=KEPT, **options):
    """The trainer of a small training."""
    published = {"word_anchors": 0} if method == "esd" else {}  # ESD preserves nothing by itself, ours does
    given = {**published, **SMALL, **options}
    with Job(model, concept_set(concepts), method, "balanced", preserve, None, given).opened() as trainer:
        yield trainer


def gradients(trainer):
    """What the last update found, by name; zero where nothing was."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trainer.parameters.items()}


def shaken(trainer, seed=3, size=0.05):
    """Random parameters, so that the trained model is unlike the frozen one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trainer.parameters.values():
            p.copy_(torch.randn(p.shape, generator=generator) * size)


def merged(model, trainer):
    """The pipeline's denoiser as it is, and a copy with the trained pairs added to its weights; both in float64."""
    frozen = copy.deepcopy(model.pipe.unet).double().eval()
    for module in frozen.modules():
        module._forward_hooks.clear()
    student = copy.deepcopy(frozen)
    values = {n: p.detach().double() for n, p in trainer.parameters.items()}
    settings = trainer.settings
    for name in {n.rsplit(".", 1)[0] for n in values}:
        weight = student.get_submodule(name.removeprefix("unet.")).weight
        change = values[f"{name}.up"] @ values[f"{name}.down"] * settings.alpha / settings.rank
        weight.data = weight.data + change
    return frozen, student


def says(unet, x, tau, rows):
    """A denoiser called by hand: x [B, c, h, w], one timestep, rows [B, 77, d]; float64."""
    return unet(x.double(), torch.full((len(x),), int(tau)), rows.double()).sample

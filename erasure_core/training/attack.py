"""Adversaries inside an update: texts that bring the concept back (RACE), and texts that suffer most (EAP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .draw import Draw, generator
from .engine import Engine, Latents
from .settings import Training
from .texts import Texts


def attacked(engine: Engine, settings: Training, draw: Draw, latents: Latents) -> Texts:
    """RACE's projected gradient descent on the concept's encoded text (arXiv 2405.16341).

    A disturbance of at most ``attack_radius`` per number, ``attack`` steps of a quarter of that by the gradient's sign,
    so that the trained model predicts the noise its trajectory began with; the text stays in the range of its own
    numbers. One latent of the update is attacked, as in the paper. The adapter gets no gradient from it.
    """
    text = draw.rows["concept"]
    number = int(torch.randint(len(latents), (), generator=generator(settings.seed, draw.step, "attack")))
    return Texts(disturbed(engine, latents, number, text, settings.attack, settings.attack_radius)[-1], text.pooled)


def disturbed(engine: Engine, latents: Latents, number: int, text: Texts, steps: int, radius: float) -> list[Tensor]:
    """The text's rows [1, T, d] after each step of the attack, the first one untouched."""
    own = text.hidden
    low, high = float(own.min()), float(own.max())
    aim = engine.grid.output_for(latents.x[number], latents.noise, latents.ks[number])[None]
    path = [own]
    for _ in range(steps):
        rows = path[-1].clone().requires_grad_()
        with engine.adapter.acting(True), torch.enable_grad():
            out = engine.predict(latents.x[[number]], [latents.ks[number]], Texts(rows, text.pooled))
            (slope,) = torch.autograd.grad(F.mse_loss(out, aim.to(out)), rows)
        moved = (rows.detach() - radius / 4 * slope.sign()).clamp(low, high)
        path.append(own + (moved - own).clamp(-radius, radius))
    return path


def worst(engine: Engine, settings: Training, draw: Draw, latents: Latents, candidates: dict[str, Texts]) -> str:
    """Of ``candidates`` the one whose prediction the training has changed most, at one latent of the update.

    Adversarial preservation (EAP, arXiv 2410.15618) without its Gumbel-softmax: the maximum is looked up.
    """
    number = int(torch.randint(len(latents), (), generator=generator(settings.seed, draw.step, "attack")))
    rows = [(number, role) for role in candidates]
    before = engine.fixed(latents, candidates, rows, on=False)
    after = engine.fixed(latents, candidates, rows, on=True)
    return max(rows, key=lambda row: float((after[row] - before[row]).square().mean()))[1]

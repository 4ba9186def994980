"""Adversaries inside an update: texts that bring the concept back (RACE), and texts that suffer most (EAP)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .draw import Draw, generator
from .engine import Engine, Latents
from .settings import Training
from .texts import Texts


def attacked(engine: Engine, settings: Training, draw: Draw, latents: Latents) -> Texts:
    """RACE's projected gradient descent on the concept's encoded text (arXiv 2405.16341); SDXL's pooled vector stays.

    ``attack`` steps of a quarter of ``attack_radius`` by the gradient's sign, from a random disturbance within the
    radius as in the published code. Where that turns to the end of the trajectory in one latent of the update, here the
    latents take turns, since a prompt is the same text from the first step of the sampling to the last.
    """
    source = generator(settings.seed, draw.step, "attack")
    text = draw.rows["concept"]
    start = text.hidden + (2 * torch.rand(text.hidden.shape, generator=source) - 1) * settings.attack_radius
    turns = torch.randint(len(latents), (settings.attack,), generator=source).tolist()
    if settings.attack_aim == "noise":
        aims = [engine.grid.output_for(x, latents.noise, k) for x, k in zip(latents.x, latents.ks, strict=True)]
    else:
        found = engine.fixed(latents, draw.rows, [(i, "concept") for i in range(len(latents))], on=False)
        aims = [found[i, "concept"] for i in range(len(latents))]
    path = disturbed(engine, latents, turns, text, aims, start, settings.attack_radius)
    return Texts(path[-1], text.pooled)


def disturbed(
    engine: Engine,
    latents: Latents,
    turns: list[int],
    text: Texts,
    aims: list[Tensor],
    start: Tensor,
    radius: float,
) -> list[Tensor]:
    """The text's rows [1, T, d] at the start of the attack and after each step of it.

    ``turns``: the latent that each step looks at; ``aims``: what the network is to say at each latent, [c, h, w]. No
    number is further than ``radius`` from its own, or outside the range that the text's numbers have. The adapter gets
    no gradient.
    """
    own = text.hidden
    low, high = float(own.min()), float(own.max())

    def within(rows: Tensor) -> Tensor:
        return (own + (rows - own).clamp(-radius, radius)).clamp(low, high)

    path = [within(start)]
    for number in turns:
        rows = path[-1].clone().requires_grad_()
        with engine.adapter.acting(True), torch.enable_grad():
            out = engine.predict(latents.x[[number]], [latents.ks[number]], Texts(rows, text.pooled))
            (slope,) = torch.autograd.grad(F.mse_loss(out, aims[number][None].to(out)), rows)
        path.append(within(rows.detach() - radius / 4 * slope.sign()))
    return path


def pulled(parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]) -> Tensor:
    """How far the parameters are from where they began: the sum over tensors of the mean distance, RACE's "lasso"."""
    return torch.stack([F.l1_loss(p, start[name].to(p)) for name, p in parameters.items()]).sum()


def worst(engine: Engine, settings: Training, draw: Draw, latents: Latents, candidates: dict[str, Texts]) -> str:
    """Of ``candidates`` the one whose prediction the training has changed most, at one latent of the update.

    Adversarial preservation (EAP, arXiv 2410.15618) without its Gumbel-softmax: the maximum is looked up.
    """
    number = int(torch.randint(len(latents), (), generator=generator(settings.seed, draw.step, "attack")))
    rows = [(number, role) for role in candidates]
    before = engine.fixed(latents, candidates, rows, on=False)
    after = engine.fixed(latents, candidates, rows, on=True)
    return max(rows, key=lambda row: float((after[row] - before[row]).square().mean()))[1]

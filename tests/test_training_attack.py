"""RACE's attack and EAP's worst case against plain float64 loops on a copy of the denoiser."""

from itertools import pairwise

import pytest
import torch
from training_support import gradients, merged, opened, says, shaken

pytest.importorskip("diffusers")

from erasure_core.training.attack import attacked, disturbed, pulled, worst
from erasure_core.training.draw import drawn
from erasure_core.training.texts import Texts

RADIUS = 0.2


@pytest.fixture
def double(fresh):
    fresh.pipe.unet.double()
    return fresh


def a_draw(trainer, step=0):
    draw = drawn(step, trainer.settings, trainer.examples, trainer.library, trainer.bank)
    return draw, trainer.source(draw)


def plain_pgd(unet, x, taus, turns, rows, aims, start, radius):
    """Projected gradient descent, number by number as the paper has it."""
    own = rows.double()
    low, high = own.min(), own.max()
    now = torch.clamp(own + torch.clamp(start.double() - own, -radius, radius), low, high)
    path = [now]
    for i in turns:
        now = now.detach().requires_grad_(True)
        loss = ((says(unet, x[i : i + 1], taus[i], now) - aims[i].double()) ** 2).mean()
        (slope,) = torch.autograd.grad(loss, now)
        stepped = now.detach() - radius / 4 * torch.sign(slope)
        delta = torch.minimum(torch.maximum(stepped - own, torch.tensor(-radius)), torch.tensor(radius))
        now = torch.clamp(own + delta, low, high)
        path.append(now)
    return path


@pytest.mark.parametrize("aim", ["concept", "noise"])
def test_the_attack_is_projected_gradient_descent(double, aim):
    with opened(double, attack=6, attack_radius=RADIUS, attack_aim=aim) as trainer:
        shaken(trainer)
        draw, latents = a_draw(trainer)
        frozen, student = merged(double, trainer)
        text = Texts(draw.rows["concept"].hidden.double(), torch.ones(1, 3))
        draw.rows["concept"] = text
        taus = [int(trainer.engine.grid.taus[k]) for k in latents.ks]
        if aim == "noise":
            aims = [latents.noise, latents.noise]
        else:
            aims = [says(frozen, latents.x[[i]], taus[i], text.hidden)[0].detach() for i in range(2)]
        turns = [0, 1, 1, 0, 1, 0]
        start = text.hidden + 3 * RADIUS * torch.randn(text.hidden.shape, generator=torch.Generator().manual_seed(1))
        path = disturbed(trainer.engine, latents, turns, text, aims, start, RADIUS)
        expected = plain_pgd(student, latents.x, taus, turns, text.hidden, aims, start, RADIUS)
        assert len(path) == len(expected) == 7
        for own, theirs in zip(path, expected, strict=True):
            assert (own - theirs).abs().max() <= 1e-6
            assert (own - text.hidden).abs().max() <= RADIUS + 1e-12
            assert own.min() >= text.hidden.min() and own.max() <= text.hidden.max()
        assert (path[-1] - path[0]).abs().max() > RADIUS / 4
        found = attacked(trainer.engine, trainer.settings, draw, latents)
        assert (found.hidden - text.hidden).abs().max() <= RADIUS + 1e-12
        assert found.pooled is text.pooled
        assert all(p.grad is None for p in trainer.parameters.values())


def test_the_attack_gets_closer_to_its_aim(demo):
    with opened(demo, attack=10, attack_radius=RADIUS, draws=2) as trainer:
        shaken(trainer, size=0.2)
        falls = []
        for step in range(3):
            draw, latents = a_draw(trainer, step)
            text = draw.rows["concept"]
            frozen, student = merged(demo, trainer)
            k = latents.ks[0]
            tau = trainer.engine.grid.taus[k]
            aim = says(frozen, latents.x[[0]], tau, text.hidden)[0].detach()
            path = disturbed(trainer.engine, latents, [0] * 10, text, [aim] * 2, text.hidden, RADIUS)
            with torch.no_grad():
                losses = [float((says(student, latents.x[[0]], tau, p) - aim).square().mean()) for p in path]
            falls.append(sum(after < before for before, after in pairwise(losses)))
            assert losses[-1] < 0.9 * losses[0]
        assert sum(falls) > 0.5 * 30  # of the single steps; a step by the sign may overshoot


def test_a_training_with_an_attack_is_another_one_and_repeats(demo):
    found = []
    for options in ({}, {"attack": 3}, {"attack": 3}, {"attack": 3, "attack_radius": 0.01}):
        with opened(demo, lr=1e-2, **options) as trainer:
            for _ in range(2):
                trainer.update()
            found.append(torch.cat([p.detach().flatten() for p in trainer.parameters.values()]))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[3])


def test_the_pull_is_the_distance_from_the_start(demo):
    with opened(demo, lr=1e-2, attack_pull=0.1) as pulling, opened(demo, lr=1e-2) as free:
        start = {n: p.detach().double().clone() for n, p in free.parameters.items()}
        assert float(pulled(pulling.parameters, pulling.start).detach()) == 0
        shaken(pulling)
        shaken(free)
        now = {n: p.detach().double().clone() for n, p in free.parameters.items()}
        expected = sum(float((now[n] - start[n]).abs().mean()) for n in now)
        assert abs(float(pulled(pulling.parameters, pulling.start).detach()) - expected) <= 1e-6 * expected
        erasing, keeping = pulling.update()
        assert abs(keeping - 0.1 * expected) <= 1e-6 and erasing == free.update()[0]
        with_pull, without = gradients(pulling), gradients(free)
        for name, slope in with_pull.items():
            own = without[name].double() + 0.1 * torch.sign(now[name] - start[name]) / now[name].numel()
            assert (slope - own).abs().max() <= 1e-6


def test_the_worst_candidate_is_the_one_that_changed_most(demo):
    with opened(demo, word_anchors=1, worst=4, draws=1) as trainer:
        shaken(trainer)
        frozen, student = merged(demo, trainer)
        for step in range(2):
            draw, latents = a_draw(trainer, step)
            candidates = {prompt: trainer.library[prompt] for prompt in trainer.bank.prompts}
            chosen = worst(trainer.engine, trainer.settings, draw, latents, candidates)
            tau = trainer.engine.grid.taus[latents.ks[0]]
            drifts = {}
            for prompt, text in candidates.items():
                with torch.no_grad():
                    before, after = (says(unet, latents.x, tau, text.hidden) for unet in (frozen, student))
                drifts[prompt] = float((after - before).square().mean())
            assert chosen == max(drifts, key=drifts.get)


def test_an_update_preserves_its_worst_candidate_in_place_of_random_ones(demo):
    options = {"word_anchors": 1, "random_anchors": 1, "lr": 1e-2}
    taken, usual = [], []
    with opened(demo, worst=6, **options) as trainer:
        for step in range(4):
            draw, latents = a_draw(trainer, step)
            usual += [draw.rows[f"word {i}.0"].hidden for i in range(2)]
            trainer._choose_worst(draw, latents)
            assert draw.anchors == [[f"random {i}.0", f"worst {i}"] for i in range(2)]
            assert torch.equal(draw.rows["worst 0"].hidden, draw.rows["worst 1"].hidden)
            taken += [draw.rows[f"worst {i}"].hidden for i in range(2)]
            trainer.update()
        bank = [trainer.library[prompt].hidden for prompt in trainer.bank.prompts]
    assert all(any(torch.equal(rows, own) for own in bank) for rows in taken)
    assert sum(not torch.equal(a, b) for a, b in zip(taken, usual, strict=True)) >= 3

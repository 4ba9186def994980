"""The parts of training: scopes, adapters, the one list of timesteps, anchors, gradients."""

import math

import pytest
import torch
from torch import nn

from erasure_core.chain import Place
from erasure_core.errors import BadInput, NothingMatched
from erasure_core.keys.families import FAMILIES
from erasure_core.training.adapters import low_rank, whole
from erasure_core.training.draw import moments, random_text
from erasure_core.training.grid import Grid
from erasure_core.training.scopes import layers_in
from erasure_core.training.settings import Training
from erasure_core.training.texts import Texts


def numbers(scope, family):
    """Layers of a scope, their weights' sizes together, and those of a rank-one pair on each."""
    shapes = FAMILIES[family].shapes()
    own = [shapes[f"{layer}.weight"] for layer in layers_in(shapes, scope)]
    return len(own), sum(map(math.prod, own)), sum(shape[0] + math.prod(shape[1:]) for shape in own)


@pytest.mark.parametrize(
    ("family", "layers", "rank_one"), [("sd1", 192, 423_936), ("sd2", 192, 432_128), ("sdxl", 722, 2_659_840)]
)
def test_every_layer_in_the_transformers_as_the_published_membranes_have_them(family, layers, rank_one):
    found = numbers("xformer", family)
    assert (found[0], found[2]) == (layers, rank_one)


@pytest.mark.parametrize(("scope", "family", "layers"), [
    ("slider", "sd1", 150), ("slider", "sd2", 150), ("slider", "sdxl", 346), ("xattn", "sd1", 64),
    ("xattn", "sdxl", 280), ("xattn-kv", "sd1", 32), ("xattn-kv", "sdxl", 140), ("selfattn", "sd1", 64),
    ("xlayer", "sd1", 8), ("selflayer", "sd1", 8),
])  # fmt: skip
def test_scopes_hold_as_many_layers_as_published_files(scope, family, layers):
    assert numbers(scope, family)[0] == layers


def test_scopes_of_whole_weights():
    shapes = FAMILIES["sd1"].shapes()
    everything = sum(math.prod(s) for n, s in shapes.items() if n.startswith("unet.") and len(s) > 1)
    assert numbers("full", "sd1")[1] == everything
    assert numbers("xattn", "sd1")[1] + numbers("noxattn", "sd1")[1] < everything  # neither time embedding nor output
    assert numbers("xattn-kv", "sd1")[1] == pytest.approx(19.17e6, rel=1e-3)
    notime = set(layers_in(shapes, "notime"))
    assert notime > set(layers_in(shapes, "noxattn")) and "unet.conv_out" not in notime


def test_a_scope_that_a_model_has_not_is_refused():
    with pytest.raises(NothingMatched, match="Choose another of xformer"):
        layers_in({"unet.conv_in.weight": (4, 4, 3, 3)}, "xattn")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def modules():
    torch.manual_seed(0)
    return {
        "unet.linear": (nn.Linear(12, 20), torch.randn(3, 7, 12)),
        "unet.point": (nn.Conv2d(12, 20, 1), torch.randn(3, 12, 5, 5)),
        "unet.conv": (nn.Conv2d(12, 20, 3, stride=2, padding=1), torch.randn(3, 12, 6, 6)),
    }


def adapter_for(kind, rank=2, alpha=1.0):
    parts = modules()
    shapes = {f"{n}.{p}": tuple(v.shape) for n, (m, _) in parts.items() for p, v in m.named_parameters()}
    made = (
        whole(shapes, list(parts)) if kind == "whole" else low_rank(shapes, list(parts), rank, alpha, 5**0.5, source())
    )
    return parts, made


@pytest.mark.parametrize("kind", ["pair", "whole"])
def test_an_untrained_adapter_changes_nothing_and_a_trained_one_equals_merged_weights(kind):
    parts, adapter = adapter_for(kind)
    before = {name: module(x) for name, (module, x) in parts.items()}
    with adapter.attached({name: Place(module) for name, (module, _) in parts.items()}):
        with adapter.acting(True):
            assert all(torch.equal(before[name], module(x)) for name, (module, x) in parts.items())
        for p in adapter.parameters.values():
            p.data = torch.randn(p.shape, generator=source(1)) * 0.1
        with adapter.acting(True):
            after = {name: module(x) for name, (module, x) in parts.items()}
        assert all(torch.equal(before[name], module(x)) for name, (module, x) in parts.items())  # off again
    deltas = adapter.deltas()
    for name, (module, x) in parts.items():
        kept = {n: p.detach().clone() for n, p in module.named_parameters()}
        for n, p in module.named_parameters():
            if f"{name}.{n}" in deltas:
                p.data = p.data + deltas[f"{name}.{n}"].dense()
        merged = module(x)
        for n, p in module.named_parameters():
            p.data = kept[n]
        assert (merged - after[name]).abs().max() <= 1e-5 * merged.abs().max()
        assert (merged - before[name]).abs().max() > 1e-2
        assert not module._forward_hooks


def test_alpha_counts_over_rank():
    _, one = adapter_for("pair", rank=4, alpha=1.0)
    _, two = adapter_for("pair", rank=4, alpha=2.0)
    for adapter in (one, two):
        for p in adapter.parameters.values():
            p.data = torch.ones_like(p)
    assert one.deltas()["unet.linear.weight"].scale == 0.25
    ratio = two.deltas()["unet.conv.weight"].dense() / one.deltas()["unet.conv.weight"].dense()
    assert torch.allclose(ratio, torch.full_like(ratio, 2.0))


def test_down_starts_uniform_in_the_bounds_of_its_slope():
    shapes = {"unet.a.weight": (40, 300)}
    for slope, bound in ((5**0.5, 300**-0.5), (1.0, (3 / 300) ** 0.5)):
        down = low_rank(shapes, ["unet.a"], 64, 1.0, slope, source()).parameters["unet.a.down"].detach()
        assert bound * 0.99 < down.abs().max() <= bound and abs(float(down.mean())) < bound / 20


def sigmas(count=1000):
    """The scaled linear schedule of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    return ((1 - alphas) / alphas).sqrt()


def walked(grid, x0, noise, k, told, kind):
    """k DDIM steps with a network that knows x0; what noise it finds at the timestep it is told, in plain loops."""
    alphas = [1 / (1 + float(s) ** 2) for s in sigmas()]
    x = noise.clone() if k == 0 else None
    level = alphas[int(grid.taus[0])]
    x = level**0.5 * x0 + (1 - level) ** 0.5 * noise
    for step in range(k):
        a = alphas[int(grid.taus[step])]
        found = (x - a**0.5 * x0) / (1 - a) ** 0.5
        output = found if kind == "eps" else a**0.5 * found - (1 - a) ** 0.5 * x0
        x = grid.step(x, output, step)
    a = alphas[int(told[k])]
    return x, (x - a**0.5 * x0) / (1 - a) ** 0.5


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("steps", [30, 50])
def test_the_network_is_told_the_noise_that_is_in_the_latent(kind, steps):
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    grid = Grid.of(sigmas(), steps, kind)
    assert torch.equal(grid.taus, grid.told) and len(set(grid.taus.tolist())) == steps
    for k in (0, 1, steps // 2, steps - 1):
        x, found = walked(grid, x0, noise, k, grid.told, kind)
        assert (found - noise).abs().max() <= 1e-6
        assert (grid.noise_in(x, grid.output_for(x, noise, k), k) - noise).abs().max() <= 1e-9
    compat = Grid.of(sigmas(), steps, kind, compat=True)
    gap = (compat.told - compat.taus).tolist()
    assert (
        (set(gap) == {19}) if steps == 50 else (min(gap) == 33 and max(gap) == 42) or (min(gap), max(gap)) == (32, 42)
    )
    _, found = walked(compat, x0, noise, steps // 2, compat.told, kind)
    assert 0.01 < (found - noise).abs().mean() / noise.abs().mean() < 0.2


def test_the_last_step_leaves_no_noise_and_the_first_is_nothing_but_noise():
    x0, noise = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    grid = Grid.of(sigmas(), 20)
    x, _ = walked(grid, x0, noise, 19, grid.told, "eps")
    assert (grid.step(x, noise, 19) - x0).abs().max() < 1e-9
    assert int(grid.taus[0]) == 999 and grid.noised(x0, noise, 0).sub(noise).abs().mean() < 0.08


def test_a_moment_of_each_part_and_every_moment_equally_often():
    found = [moments(20, 4, source(seed)) for seed in range(4000)]
    assert all(5 * i <= k < 5 * i + 5 for ks in found for i, k in enumerate(ks))
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=20)
    assert counts.min() > 600 and counts.max() < 1000  # of 800


def test_random_anchors_have_the_length_of_the_text_and_no_direction():
    text = Texts(torch.randn(1, 77, 32), torch.randn(1, 16))
    found = [random_text(text, source(seed)) for seed in range(64)]
    lengths = torch.tensor([float(f.hidden.norm() / text.hidden.norm()) for f in found])
    assert 0.8 <= lengths.min() < 0.85 and 1.15 < lengths.max() <= 1.2
    pooled = torch.tensor([float(f.pooled.norm() / text.pooled.norm()) for f in found])
    assert pooled.min() >= 0.8 and pooled.max() <= 1.2
    cosines = torch.tensor(
        [float(torch.cosine_similarity(f.hidden.flatten(), text.hidden.flatten(), 0)) for f in found]
    )
    assert cosines.abs().max() < 0.1 and found[0].hidden.dtype == text.hidden.dtype
    assert torch.equal(random_text(text, source(5)).hidden, found[5].hidden)


@pytest.mark.parametrize(("wrong", "says"), [
    ({"draws": 30, "grid": 20}, "needs a grid of as many"), ({"latents": "average"}, "needs a moving average"),
    ({"size": 100}, "multiple of 64"), ({"worst": 4}, "chooses among the word anchors"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Training(**wrong)

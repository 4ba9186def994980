"""Membranes of changed weights at run time against the same changes baked in, row by row, in float64."""

import pytest
import torch
from chain_reference import published_chain, row_by_row

from erasure_core.acting import Action, on_negative
from erasure_core.bottleneck import Bottleneck
from erasure_core.chain import Chain, Hooks, Place
from erasure_core.erasure import WeightDelta
from erasure_core.errors import BadInput
from erasure_core.gates import Always

KINDS = (".attn", "proj_in", "proj_out", "ff.net", "conv", "time_emb_proj", "time_embedding", "norm")


def seeded(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank(name, shape, rank, seed, size=0.3):
    down = seeded(rank, *shape[1:], seed=seed)
    up = seeded(shape[0], rank, *[1] * (len(shape) - 2), seed=seed + 1)
    return WeightDelta(name, down=down / down.flatten(1).shape[1] ** 0.5, up=up, scale=size / rank)


def membrane_on(unet, rank, seed, kinds=KINDS, diff=False):
    """Changes of every weight of some kinds, low-rank or whole."""
    deltas = {}
    for i, (name, weight) in enumerate(unet.named_parameters()):
        if not any(kind in name for kind in kinds):
            continue
        if weight.dim() > 1 and not diff:
            deltas[f"unet.{name}"] = low_rank(f"unet.{name}", tuple(weight.shape), rank, seed + i)
        elif diff:
            change = seeded(*weight.shape, seed=seed + i) * 0.1 * weight.detach().std().clamp_min(0.05)
            deltas[f"unet.{name}"] = WeightDelta(f"unet.{name}", diff=change)
    return deltas


def erasers_on(unet, rank, seed):
    found = {}
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            width = module.to_out[0].out_features
            found[f"unet.{name}"] = Bottleneck(
                f"unet.{name}",
                seeded(rank, width, seed=seed) / width**0.5,
                seeded(rank, seed=seed + 1),
                seeded(width, rank, seed=seed + 2) * 0.3,
                seeded(width, seed=seed + 3) * 0.1,
            )
    return found


def action(deltas=(), erasers=(), strength=1.0, **more):
    return Action("m", {}, strength, Always(), dict(deltas), dict(erasers), **more)


@pytest.fixture(scope="module")
def inputs(demo):
    x, hidden = seeded(3, 8, 8, 8, seed=1), demo.encode(["a red circle", "a blue heart", ""]).hidden
    return demo.pipe.unet, x, torch.tensor(500), hidden


def run(unet, x, t, hidden, actions, gains, calls=1):
    chain = Chain(actions)
    hooks = Hooks(chain, {layer: Place(unet.get_submodule(layer.removeprefix("unet."))) for layer in chain.layers})
    try:
        with torch.no_grad():
            for _ in range(calls):
                hooks.begin(gains)
                out = unet(x, t, encoder_hidden_states=hidden).sample
                hooks.end()
    finally:
        hooks.remove()
    return out


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def plain(unet, x, t, hidden):
    with torch.no_grad():
        return unet(x, t, encoder_hidden_states=hidden).sample


@pytest.mark.parametrize("calls", [1, 3])
def test_eight_mixed_membranes_are_the_dense_sum_each_row_by_its_own_gains(inputs, calls):
    """Ranks 1 to 4, all kinds of layers, whole differences, Receler's erasers; later calls know the text."""
    unet, *rest = inputs
    deltas = [membrane_on(unet, rank, 100 * rank) for rank in (1, 1, 2, 4)]
    deltas += [membrane_on(unet, 1, 900, (".attn1",)), membrane_on(unet, 2, 901, ("attn2.to_k", "conv1"))]
    deltas += [membrane_on(unet, 0, 902, diff=True), {}]
    erasers = [{}] * 6 + [erasers_on(unet, 6, 40), erasers_on(unet, 3, 50)]
    gains = torch.rand(3, 8, generator=torch.Generator().manual_seed(3)) * 0.5
    gains[0, 2], gains[1] = -0.2, 0.0
    actions = [action(d, e) for d, e in zip(deltas, erasers, strict=True)]
    found = run(unet, *rest, actions, gains, calls)
    expected = row_by_row(unet, *rest, gains, deltas, erasers)
    assert error(found, expected) <= 1e-5
    assert error(plain(unet, *rest), expected) > 0.05
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    permuted = run(unet, *rest, [actions[i] for i in order], gains[:, order], calls)
    assert torch.equal(permuted, found)


def test_closed_membranes_leave_every_bit_and_open_ones_do_not(inputs):
    unet, *rest = inputs
    actions, base = [action(membrane_on(unet, 1, 1)), action(erasers=erasers_on(unet, 4, 2))], plain(*inputs)
    assert torch.equal(run(unet, *rest, actions, torch.zeros(3, 2)), base)
    for open_one in (0, 1):
        gains = torch.zeros(3, 2)
        gains[:, open_one] = 1.0
        assert not torch.equal(run(unet, *rest, actions, gains), base)
    assert torch.equal(plain(*inputs), base)  # no hook is left


def test_a_change_of_text_or_gains_between_calls_is_noticed(inputs):
    unet, x, t, hidden = inputs
    deltas = membrane_on(unet, 2, 7, ("attn2.to_k", "attn2.to_v"))
    chain = Chain([action(deltas)])
    hooks = Hooks(chain, {layer: Place(unet.get_submodule(layer.removeprefix("unet."))) for layer in chain.layers})
    other = hidden.flip(0)
    one, half = torch.ones(3, 1), torch.full((3, 1), 0.5)
    try:
        for text, gains in ((hidden, one), (hidden, half), (other, half), (hidden, one), (other.clone(), half)):
            hooks.begin(gains)
            with torch.no_grad():
                found = unet(x, t, encoder_hidden_states=text).sample
            hooks.end()
            assert error(found, row_by_row(unet, x, t, text, gains, [deltas])) <= 1e-5
    finally:
        hooks.remove()


def test_the_published_chain_squares_gains_and_mixes_files(inputs):
    unet, x, t, hidden = inputs
    kinds = (".attn", "proj_in", "ff.net", "conv1")
    deltas = [membrane_on(unet, 2, seed, kinds) for seed in (11, 12, 13)]
    gains = [0.8, 0.5, 0.3]
    for count in (1, 3):
        mixed = [action(d, mixes=True) for d in deltas[:count]]
        found = run(unet, x, t, hidden, mixed, torch.tensor([gains[:count]] * 3))
        other = published_chain(unet, gains[:count], deltas[:count])
        with torch.no_grad():
            expected = other(x.double(), t, encoder_hidden_states=hidden.double()).sample
        assert error(found, expected) <= 1e-6
        summed = run(unet, x, t, hidden, [action(d) for d in deltas[:count]], torch.tensor([gains[:count]] * 3))
        assert error(summed, expected) > 1e-3
    squared = run(unet, x, t, hidden, [action(deltas[0])], torch.full((3, 1), 0.64))
    alone = run(unet, x, t, hidden, [action(deltas[0], mixes=True)], torch.full((3, 1), 0.8))
    assert error(squared, alone.double()) <= 1e-6
    unequal = [action(membrane_on(unet, 1, 5), mixes=True), action(membrane_on(unet, 2, 6), mixes=True)]
    with pytest.raises(BadInput, match="one rank"):
        run(unet, x, t, hidden, unequal, torch.ones(3, 2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_holds_factors_of_very_different_lengths(dtype, tolerance):
    """Solvers give tiny down and large up."""
    torch.manual_seed(0)  # the layer's own numbers decide how its rounding falls
    layer = torch.nn.Linear(12, 20).to(dtype)
    x = seeded(2, 5, 12, seed=1).to(dtype)
    delta = WeightDelta("unet.l.weight", down=seeded(1, 12, seed=2) * 1e-7, up=seeded(20, 1, seed=3) * 1e7)
    chain = Chain([action({"unet.l.weight": delta})])
    hooks = Hooks(chain, {"unet.l": Place(layer)})
    hooks.begin(torch.ones(2, 1))
    with torch.no_grad():
        found = layer(x).double()
    hooks.remove()
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    expected = expected + (x.double() @ delta.down.double().T) @ delta.up.double().T
    assert found.isfinite().all() and (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_part_of_a_fused_layer_is_changed_alone():
    fused, x = torch.nn.Linear(6, 12), seeded(2, 3, 6, seed=1)
    delta = low_rank("transformer.k.weight", (4, 6), 2, 5)
    hooks = Hooks(Chain([action({"transformer.k.weight": delta})]), {"transformer.k": Place(fused, 4, 4)})
    with torch.no_grad():
        expected = fused(x)
        expected[..., 4:8] += x @ (delta.up @ delta.down * delta.scale).T
        hooks.begin(torch.ones(2, 1))
        found = fused(x)
    hooks.remove()
    assert (found - expected).abs().max() <= 1e-6


def test_gradients_pass_through():
    """Training against the model with membranes on it must not fail on results that were written over."""
    layer, x = torch.nn.Linear(6, 4), seeded(2, 3, 6, seed=1).requires_grad_()
    delta = low_rank("unet.l.weight", (4, 6), 1, 5)
    hooks = Hooks(Chain([action({"unet.l.weight": delta})]), {"unet.l": Place(layer)})
    hooks.begin(torch.ones(2, 1))
    layer(x).square().sum().backward()
    hooks.remove()
    weight = layer.weight.detach() + delta.up @ delta.down * delta.scale
    expected = 2 * (x.detach() @ weight.T + layer.bias.detach()) @ weight
    assert (x.grad - expected).abs().max() <= 1e-5


def test_rows_that_another_pack_adds_get_the_strongest_gain():
    layer, x = torch.nn.Linear(6, 4), seeded(4, 3, 6, seed=1)
    delta = low_rank("unet.l.weight", (4, 6), 1, 5)
    hooks = Hooks(Chain([action({"unet.l.weight": delta})]), {"unet.l": Place(layer)})
    hooks.begin(torch.tensor([[0.2], [-0.7]]))
    with torch.no_grad():
        found = layer(x)
        hooks.remove()
        expected = layer(x) - 0.7 * x @ (delta.up @ delta.down * delta.scale).T
    assert (found - expected).abs().max() <= 1e-6


def test_the_negative_prompts_row_follows_the_positive_prompts():
    actions = [action(strength=0.5), action(strength=2.0, full=True), action(strength=2.0, full=True)]
    positive = torch.tensor([[0.1, 0.4, 0.0], [0.0, 0.0, 2.0]])
    assert on_negative(positive, actions).tolist() == [[pytest.approx(0.1), 2.0, 0.0], [0.0, 0.0, 2.0]]

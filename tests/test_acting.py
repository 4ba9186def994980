"""Maps side by side against the formula, written out row by row in float64."""

import pytest
import torch

from erasure_core.acting import Action, MapStack, Stacks
from erasure_core.erasure import EmbeddingMap, MapFactor
from erasure_core.gates import Always, PromptRow


def random_map(rank, d, seed, factors=1, bias=False):
    generator = torch.Generator().manual_seed(seed)

    def factor():
        down, up = torch.randn(rank, d, generator=generator), torch.randn(d, rank, generator=generator)
        return MapFactor(down / d**0.5, up / rank, torch.randn(d, generator=generator) if bias else None)

    return EmbeddingMap("clip_l", tuple(factor() for _ in range(factors)))


def by_hand(rows, maps, gains):
    """x + sum over maps of g (T x - x), factors one after the other: loops in float64, nothing of ours."""
    out = rows.double().clone()
    for b in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            x = rows[b, t].double()
            for i, emap in enumerate(maps):
                y = x.clone()
                for factor in emap.factors:
                    change = torch.zeros_like(y)
                    for r in range(factor.down.shape[0]):
                        change += (factor.down[r].double() * y).sum() * factor.up[:, r].double()
                    if factor.bias is not None:
                        change += factor.bias.double()
                    y = y + float(gains[b, i]) * change
                out[b, t] += y - x
    return out


@pytest.mark.parametrize(("factors", "bias"), [(1, False), (2, False), (1, True)])
def test_the_stack_equals_the_formula(factors, bias):
    maps = [random_map(2, 12, 1), random_map(3, 12, 2, factors, bias)]
    rows, gains = torch.randn(3, 5, 12), torch.tensor([[1.0, 0.0], [0.3, -2.0], [0.5, 0.5]])
    expected = by_hand(rows, maps, gains)
    assert (MapStack(maps)(rows, gains).double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_is_rounded_once(dtype, tolerance):
    """Solvers give tiny Y and large D; computed in half precision these would underflow."""
    plain = random_map(2, 12, 3)
    factor = plain.factors[0]
    steep = EmbeddingMap("clip_l", (MapFactor(factor.down * 1e-6, factor.up * 1e6),))
    rows, gains = torch.randn(2, 4, 12).to(dtype), torch.ones(2, 1)
    expected = by_hand(rows, [plain], gains)
    found = MapStack([steep])(rows, gains)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_rows_of_gain_zero_stay_the_same_to_the_last_bit_and_others_do_not():
    rows = torch.randn(3, 5, 12)
    found = MapStack([random_map(2, 12, 1)])(rows, torch.tensor([[0.0], [1.0], [0.0]]))
    assert torch.equal(found[[0, 2]], rows[[0, 2]]) and not torch.equal(found[1], rows[1])
    assert MapStack([random_map(2, 12, 1)])(rows, torch.zeros(3, 1)) is rows


def test_order_matters_only_up_to_rounding():
    maps, gains, rows = [random_map(2, 12, i) for i in range(5)], torch.rand(4, 5), torch.randn(4, 7, 12)
    order = [3, 1, 4, 0, 2]
    one, two = MapStack(maps)(rows, gains), MapStack([maps[i] for i in order])(rows, gains[:, order])
    assert (one - two).abs().max() <= 1e-6 * one.abs().max()


def test_pooled_vectors_are_mapped_by_their_own_maps():
    context, pooled = random_map(2, 12, 1), random_map(1, 6, 2)
    actions = [
        Action("a", {"sdxl_lg": context, "sdxl_pooled": pooled}, 1.0, Always()),
        Action("b", {"sdxl_lg": random_map(1, 12, 5)}, 0.5, Always()),
    ]
    stacks, gains = Stacks(actions), torch.tensor([[1.0, 0.5]])
    vector = torch.randn(1, 6)
    expected = by_hand(vector[:, None], [pooled], gains[:, :1])[:, 0]
    assert (stacks.apply("sdxl_pooled", vector, gains).double() - expected).abs().max() < 1e-5
    assert (stacks.width("sdxl_pooled"), stacks.width("clip_l")) == (6, None)
    assert stacks.apply("clip_l", vector, gains) is vector
    assert [a.gain for a in stacks.activations(PromptRow(torch.zeros(1, 12)))] == [1.0, 0.5]

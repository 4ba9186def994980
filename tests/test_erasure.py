"""Maps and deltas as algebra: products, scaling, one factor for all, weights, and what is refused."""

import dataclasses

import pytest
import torch

from erasure_core.erasure import (
    POOLED_WEIGHT,
    EmbeddingMap,
    Erasure,
    MapFactor,
    WeightDelta,
    cross_attention_names,
)
from erasure_core.errors import BadInput, NothingMatched, WrongFamily

D = 20


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def factor(seed, rank=3, bias=False):
    return MapFactor(draw(seed, rank, D), draw(seed + 1, D, rank), draw(seed + 2, D) if bias else None)


def dense(one):
    return torch.eye(D, dtype=torch.float64) + one.up.double() @ one.down.double()


@pytest.fixture
def product():
    return EmbeddingMap("clip_l", (factor(1), factor(10, rank=5)))


def test_a_product_applies_its_factors_in_order(product):
    rows = draw(5, 4, 7, D)
    first, second = map(dense, product.factors)
    expected = rows.double() @ first.T @ second.T
    torch.testing.assert_close(product(rows).double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(product.matrix(), second @ first)
    assert not torch.allclose(product.matrix(), first @ second, atol=1e-3)
    assert (product.rank, product.width) == (8, D)


def test_one_factor_for_all_is_exact_and_ranks_add(product):
    one = product.linear()
    assert one.rank == 8
    torch.testing.assert_close(dense(one), product.matrix(), rtol=0, atol=1e-6)
    three = EmbeddingMap("x", (*product.factors, factor(30)))
    assert three.linear().rank == 11
    torch.testing.assert_close(dense(three.linear()), three.matrix(), rtol=0, atol=1e-6)


def test_a_single_factor_stays_as_it_is():
    one = factor(1)
    again = EmbeddingMap("x", (one,)).linear()
    assert torch.equal(again.up, one.up)
    assert torch.equal(again.down, one.down)


def test_scaling_scales_every_factors_change(product):
    half = product.scaled(0.5)
    eye = torch.eye(D, dtype=torch.float64)
    first, second = (eye + 0.5 * (dense(f) - eye) for f in product.factors)
    torch.testing.assert_close(half.matrix(), second @ first, rtol=0, atol=1e-6)
    assert torch.equal(product.scaled(0.0).matrix(), eye)
    assert torch.equal(product.scaled(1.0).matrix(), product.matrix())
    rows = draw(5, 4, D)
    torch.testing.assert_close(product(rows, gain=0.5), half(rows), rtol=0, atol=1e-6)


def test_gain_zero_returns_the_rows_themselves(product):
    rows = draw(5, 4, D)
    assert product(rows, gain=0) is rows
    assert product(rows, gain=0.0) is rows
    off = EmbeddingMap("x", (factor(1, bias=True),))
    assert off(rows, gain=0.0) is rows


def test_a_gain_per_row_acts_on_its_own_row(product):
    rows = draw(5, 3, 4, D)
    gains = torch.tensor([0.0, 1.0, 0.3]).reshape(3, 1, 1)
    mapped = product(rows, gain=gains)
    assert torch.equal(mapped[0], rows[0])
    torch.testing.assert_close(mapped[1], product(rows[1]), rtol=0, atol=1e-6)
    torch.testing.assert_close(mapped[2], product(rows[2], gain=0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_keep_their_precision(product, dtype):
    rows = draw(5, 4, D).to(dtype)
    mapped = product(rows)
    assert mapped.dtype == dtype
    torch.testing.assert_close(mapped.float(), product(rows.float()), rtol=0, atol=0.05)


def test_a_bias_acts_on_text_but_not_in_weights():
    with_bias = EmbeddingMap("x", (factor(1, bias=True),))
    rows = draw(5, 4, D)
    expected = rows.double() @ dense(with_bias.factors[0]).T + with_bias.factors[0].bias
    torch.testing.assert_close(with_bias(rows).double(), expected, rtol=0, atol=1e-5)
    half = with_bias.scaled(0.5)(rows)
    torch.testing.assert_close(half.double(), rows + 0.5 * (expected - rows), rtol=0, atol=1e-5)
    with pytest.raises(BadInput, match="Apply it to the text"):
        with_bias.linear()


@pytest.mark.parametrize(
    ("down", "up", "bias"),
    [((3, D), (3, D), None), ((3, D), (D, 4), None), ((3, D), (D + 1, 3), None), ((3, D), (D, 3), (3,))],
)
def test_factors_that_do_not_fit_are_refused(down, up, bias):
    with pytest.raises(BadInput, match=r"down \[r, d\] and up \[d, r\]"):
        MapFactor(torch.zeros(down), torch.zeros(up), None if bias is None else torch.zeros(bias))


def test_a_delta_is_its_product_times_its_scale():
    delta = WeightDelta("w", down=draw(1, 2, 5), up=draw(2, 7, 2), scale=0.5)
    expected = 0.5 * sum(torch.outer(delta.up[:, i], delta.down[i]) for i in range(2))
    torch.testing.assert_close(delta.dense(), expected)
    assert (delta.shape, delta.rank) == ((7, 5), 2)
    torch.testing.assert_close(delta.scaled(-2.0).dense(), -2 * expected)


def test_a_convolutions_delta_has_its_shape():
    delta = WeightDelta("w", down=draw(1, 2, 4, 3, 3), up=draw(2, 6, 2, 1, 1))
    assert delta.shape == (6, 4, 3, 3)
    expected = torch.einsum("or,rikl->oikl", delta.up[:, :, 0, 0], delta.down)
    torch.testing.assert_close(delta.dense(), expected)


def test_a_full_difference_is_scaled_and_widened():
    delta = WeightDelta("w", diff=torch.ones(2, 3, dtype=torch.float16), scale=3.0)
    assert delta.rank is None
    assert torch.equal(delta.dense(), torch.full((2, 3), 3.0))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"down": torch.zeros(2, 3)},
        {"up": torch.zeros(3, 2)},
        {"down": torch.zeros(2, 3), "up": torch.zeros(3, 2), "diff": torch.zeros(3, 3)},
        {"down": torch.zeros(2, 3), "up": torch.zeros(3, 1)},
    ],
)
def test_half_a_delta_is_refused(parts):
    with pytest.raises(BadInput, match=r"^w: "):
        WeightDelta("w", **parts)


def weights():
    names = ("unet.a.attn2.to_k.weight", "unet.a.attn2.to_v.weight", "unet.b.attn2.to_k.weight")
    found = {name: draw(40 + i, 8 + i, D) for i, name in enumerate(names)}
    return {**found, "unet.a.attn1.to_k.weight": draw(50, 8, 8), POOLED_WEIGHT: draw(51, 6, D + 4)}


def test_maps_become_deltas_of_what_reads_the_text(product):
    erasure = Erasure(maps={"clip_l": product})
    deltas = erasure.deltas(weights())
    assert set(deltas) == {n for n in weights() if ".attn2." in n}
    change = product.matrix() - torch.eye(D)
    for name, delta in deltas.items():
        expected = weights()[name].double() @ change
        assert (delta.dense() - expected).norm() / expected.norm() < 1e-6
        assert torch.equal(delta.down, deltas["unet.a.attn2.to_k.weight"].down)


def test_a_pooled_map_is_padded_with_zeros(product):
    deltas = Erasure(maps={"sdxl_pooled": product}).deltas(weights())
    assert set(deltas) == {POOLED_WEIGHT}
    whole = deltas[POOLED_WEIGHT].dense()
    expected = weights()[POOLED_WEIGHT][:, :D].double() @ (product.matrix() - torch.eye(D))
    assert (whole[:, :D] - expected).norm() / expected.norm() < 1e-6
    assert torch.count_nonzero(whole[:, D:]) == 0


@pytest.mark.parametrize(("applies", "count"), [("kv", 3), ("k", 2), ("v", 1)])
def test_a_map_applies_to_keys_values_or_both(product, applies, count):
    assert len(cross_attention_names(weights(), applies)) == count
    assert len(Erasure(maps={"clip_l": product}, applies=applies).deltas(weights())) == count


def test_maps_and_deltas_stand_side_by_side_but_not_on_one_weight(product):
    other = WeightDelta("unet.a.attn1.to_k.weight", diff=torch.ones(8, 8))
    both = Erasure(maps={"clip_l": product}, weight_deltas={other.name: other})
    assert len(both.deltas(weights())) == 4
    half = both.scaled(0.5)
    assert torch.equal(half.deltas(weights())[other.name].dense(), torch.full((8, 8), 0.5))
    assert both.rank == 8
    clash = WeightDelta("unet.a.attn2.to_k.weight", diff=torch.ones(8, D))
    with pytest.raises(BadInput, match="both by a map and by a delta"):
        Erasure(maps={"clip_l": product}, weight_deltas={clash.name: clash}).deltas(weights())


def test_a_model_that_does_not_fit_is_refused(product):
    with pytest.raises(NothingMatched, match="clip_l"):
        Erasure(maps={"clip_l": product}).deltas({"unet.conv_in.weight": torch.zeros(2, 2)})
    with pytest.raises(NothingMatched, match="sdxl_pooled"):
        Erasure(maps={"sdxl_pooled": product}).deltas({"unet.a.attn2.to_k.weight": torch.zeros(3, D)})
    with pytest.raises(WrongFamily, match=f"width {D}.*width 7"):
        Erasure(maps={"clip_l": product}).deltas({"unet.a.attn2.to_k.weight": torch.zeros(3, 7)})
    with pytest.raises(WrongFamily, match="only 7 inputs"):
        Erasure(maps={"sdxl_pooled": product}).deltas({POOLED_WEIGHT: torch.zeros(3, 7)})


def test_an_erasure_is_frozen_and_says_its_schema(product):
    erasure = Erasure(maps={"clip_l": product})
    assert erasure.schema == "membrane/1"
    with pytest.raises(dataclasses.FrozenInstanceError):
        erasure.applies = "k"
    with pytest.raises(BadInput, match="'kv', 'k' or 'v', not 'q'"):
        Erasure(applies="q")

"""Erasers behind cross-attention: the published formula, gains, sums, and the native file that keeps them."""

import math

import pytest
import torch

from erasure_core.bottleneck import Bottleneck, check_bottlenecks
from erasure_core.combine import combine
from erasure_core.erasure import Erasure
from erasure_core.errors import BadInput, NothingMatched, UnknownFormat, WrongFamily
from erasure_core.formats import load, save
from erasure_core.keys import SD1, SD2

NAME = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"


def eraser(width=6, rank=4, seed=0, name=NAME):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rank, width), (rank,), (width, rank), (width,))
    return Bottleneck(name, *(torch.randn(shape, generator=generator) for shape in shapes))


def by_loops(a, e, g):
    """The formula in plain Python numbers, one unit after the other."""
    hidden = []
    for k in range(e.down.shape[0]):
        h = sum(a[i] * float(e.down[k, i]) for i in range(len(a))) + float(e.down_bias[k])
        hidden.append(0.5 * h * (1 + math.erf(h / math.sqrt(2))))
    changes = [
        sum(hidden[k] * float(e.up[i, k]) for k in range(len(hidden))) + float(e.up_bias[i]) for i in range(len(a))
    ]
    return [x + g * change for x, change in zip(a, changes, strict=True)]


@pytest.mark.parametrize("gain", [1.0, 0.3, -2.0])
def test_the_formula(gain):
    a = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([by_loops(row.tolist(), eraser(), gain) for row in a])
    assert torch.allclose(eraser()(a, gain), expected, atol=1e-5)
    assert torch.allclose(eraser().scaled(gain)(a), expected, atol=1e-5)


def test_a_gain_per_row_and_off_is_off():
    a = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    mixed = eraser()(a, torch.tensor([0.0, 1.0])[:, None, None])
    assert torch.equal(mixed[0], a[0]) and torch.allclose(mixed[1], eraser()(a[1])) and not torch.equal(mixed[1], a[1])
    assert eraser()(a, 0) is a


def test_a_sum_changes_what_both_change():
    a = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    parts = [(Erasure(bottlenecks={NAME: eraser(seed=s)}), strength) for s, strength in ((0, 1.0), (1, 0.5))]
    both = combine(parts).bottlenecks[NAME]
    assert torch.allclose(both(a) - a, (eraser(seed=0)(a) - a) + 0.5 * (eraser(seed=1)(a) - a), atol=1e-5)
    with pytest.raises(WrongFamily, match="different widths"):
        combine([(Erasure(bottlenecks={NAME: eraser(w)}), 1.0) for w in (6, 7)])


def test_the_native_file_keeps_them_bitwise(tmp_path):
    other = NAME.replace("mid_block", "up_blocks.3")
    erasure = Erasure(bottlenecks={NAME: eraser(), other: eraser(8, 2, 5, other)}, base={"family": "sd1"})
    again = load(save(erasure, tmp_path / "x"))
    assert again.bottlenecks.keys() == erasure.bottlenecks.keys() and again.rank == 4
    for name, one in erasure.bottlenecks.items():
        for part in ("down", "down_bias", "up", "up_bias"):
            assert torch.equal(getattr(one, part), getattr(again.bottlenecks[name], part))
    with pytest.raises(BadInput, match="no LoRA can hold"):
        save(erasure, tmp_path / "y", form="lora")


def test_shapes_that_do_not_belong_together_are_refused(tmp_path):
    good = eraser()
    with pytest.raises(BadInput, match=r"needs down \[r, c\]"):
        Bottleneck(NAME, good.down, good.down_bias, good.up.T, good.up_bias)
    path = save(Erasure(bottlenecks={NAME: good}), tmp_path / "x")
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors.pop(f"bottleneck.{NAME}.up")
    save_file(tensors, path, {"membrane.format": "1"})
    with pytest.raises(UnknownFormat, match="do not belong together"):
        load(path)


def test_a_model_that_cannot_take_them_is_named():
    check_bottlenecks([eraser(1280)], SD1.shapes())
    with pytest.raises(WrongFamily, match="1280 wide in this model but 6"):
        check_bottlenecks([eraser()], SD2.shapes())
    with pytest.raises(NothingMatched, match="no attention"):
        check_bottlenecks([eraser(name="unet.other.attn2")], SD1.shapes())

"""Fusion of LoRAs against the published loop over dense matrices, and the three limits it must reach."""

import mace_reference as published
import pytest
import torch
from apply_support import NAME, assert_untouched, picture, random_delta, weights_of
from closed_form_support import assert_edited, matrices

from erasure_core import BadInput, Erasure, Membrane, NothingMatched, apply, erase, load, save
from erasure_core.erasure import WeightDelta
from erasure_core.fusion import Teacher, fuse, fusion_matrices
from erasure_core.join import erase_again
from erasure_core.templates import contexts


def lora(model, seed, rank=1):
    """A LoRA on every key and value matrix."""
    generator = torch.Generator().manual_seed(seed)
    return Erasure(
        weight_deltas={
            name: WeightDelta(
                name,
                down=torch.randn(rank, w.shape[1], generator=generator) * 0.1,
                up=torch.randn(w.shape[0], rank, generator=generator) * 0.1,
                scale=0.5,
            )
            for name, w in matrices(model).items()
        },
        base={"family": "sd1"},
    )


def texts(plain, phrases, kind="object"):
    return torch.cat([plain.rows(t.replace("{}", p)) for p in phrases for t in contexts(kind)]).double()


@pytest.fixture(scope="module")
def refined(demo):
    return erase(demo, "circle -> square\nheart -> star", "mace", exact=True)


@pytest.mark.parametrize("with_base", [True, False])
def test_the_published_fusion(demo, plain, refined, with_base, tmp_path):
    first = load(save(lora(demo, 1), tmp_path / "circle.safetensors", form="lora"))
    teachers = [Teacher(first, ("circle", "disc")), Teacher(lora(demo, 2, rank=3), ("heart",), strength=0.7)]
    base = refined if with_base else None
    fused = fuse(demo, teachers, base, preserve=["moon", "a red ring"], lamb=2.0, preserve_scale=0.3)
    rows = [texts(plain, teacher.phrases) for teacher in teachers]
    kept = torch.cat([plain.rows(t) for t in ("", "a red ring", "moon")]).double()
    t = refined.maps["clip_l"].matrix() if with_base else torch.eye(64, dtype=torch.float64)
    expected = {}
    for name, weight in matrices(demo).items():
        changes = [x.erasure.weight_deltas[name].dense().double() * x.strength for x in teachers]
        expected[name] = published.fuse(weight, weight.double() @ t, changes, rows, kept, 2.0, 0.3)
    assert_edited(fused, demo, expected)
    assert not fused.maps
    assert {delta.rank for delta in fused.weight_deltas.values()} == {4 + (refined.rank if with_base else 0)}


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_teacher_on_rows_of_full_rank_is_itself():
    """CF 4.7 ii."""
    basis = torch.linalg.qr(draw(1, 24, 24)).Q * 3
    (share,), _ = fusion_matrices([basis.T @ basis], torch.zeros(24, 24).double(), 0.0)
    assert (share - torch.eye(24)).norm() / 24**0.5 <= 1.1e-6


def test_teachers_on_orthogonal_rows_are_each_obeyed():
    """CF 4.7 iii."""
    basis = torch.linalg.qr(draw(1, 24, 24)).Q
    rows = [basis[:10] * 3, basis[10:] * 3]
    shares, _ = fusion_matrices([e.T @ e for e in rows], torch.zeros(24, 24).double(), 0.0)
    changes = [draw(2, 7, 24), draw(3, 7, 24)]
    total = sum(change @ share for change, share in zip(changes, shares, strict=True))
    for change, mine in zip(changes, rows, strict=True):
        assert (total @ mine.T - change @ mine.T).norm() / (change @ mine.T).norm() < 2e-6


def test_low_rank_form_is_the_dense_one():
    """CF 4.7 iv."""
    weight, rows, kept = draw(1, 7, 16), [draw(2, 30, 16), draw(3, 30, 16)], draw(4, 20, 16)
    t = torch.eye(16, dtype=torch.float64) + 0.1 * draw(5, 16, 16)
    ups, downs = [draw(6, 7, 1), draw(7, 7, 1)], [draw(8, 1, 16), draw(9, 1, 16)]
    changes = [u @ d for u, d in zip(ups, downs, strict=True)]
    dense = published.fuse(weight, weight @ t, changes, rows, kept, 0.5, 0.2)
    shares, prior = fusion_matrices([e.T @ e for e in rows], 0.2 * kept.T @ kept, 0.5)
    low = weight + weight @ (t - torch.eye(16)) @ (torch.eye(16) - prior)
    low = low + sum(u @ (d @ m) for u, d, m in zip(ups, downs, shares, strict=True))
    assert (low - dense).norm() / dense.norm() < 1e-10


def test_a_lora_acts_on_its_own_texts_and_hardly_elsewhere(demo, plain):
    one, other = lora(demo, 1), lora(demo, 2)
    fused = fuse(demo, [Teacher(one, ("circle",)), Teacher(other, ("heart",))], preserve=["moon", "a blue star"])
    wanted, got = one.weight_deltas[NAME].dense().double(), fused.weight_deltas[NAME].dense().double()
    own, kept = plain.rows("a photo of a circle")[5].double(), plain.rows("moon")[1].double()
    assert (got @ own - wanted @ own).norm() < 0.6 * (wanted @ own).norm()
    assert (got @ kept).norm() < 0.5 * (wanted @ kept).norm()


def test_a_full_difference_is_fused_and_other_weights_are_summed(demo):
    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    shapes = {name: tuple(demo.weights()[name].shape) for name in (NAME, attention)}
    given = Erasure(weight_deltas={name: random_delta(name, shape) for name, shape in shapes.items()})
    fused = fuse(demo, [Teacher(given, ("circle",))])
    assert torch.equal(fused.weight_deltas[attention].dense(), given.weight_deltas[attention].dense())
    assert not torch.equal(fused.weight_deltas[NAME].dense(), given.weight_deltas[NAME].dense())
    assert fused.diagnostics["fusion"] == {"teachers": 1, "summed": 1}


def test_fused_loras_apply_and_undo(demo):
    base = weights_of(demo), picture(demo)
    fused = fuse(demo, [Teacher(lora(demo, 1, rank=2), ("circle",)), Teacher(lora(demo, 2), ("heart",))])
    with apply(demo, Membrane(fused)):
        assert not torch.equal(picture(demo), base[1])
    with apply(demo, Membrane(fused, strength=0)):
        assert torch.equal(picture(demo), base[1])
    assert_untouched(demo, base)
    assert fused.gate["phrases"] == ["circle", "heart"]
    with pytest.raises(BadInput, match="Unknown method 'fusion'"):
        erase_again(demo, {**fused.recipe})


def test_what_cannot_be_fused_is_said(demo):
    with pytest.raises(BadInput, match="nothing to fuse"):
        fuse(demo, [])
    with pytest.raises(BadInput, match="needs the phrases it shall act on"):
        Teacher(lora(demo, 1), ())
    with pytest.raises(BadInput, match="no kind of concept"):
        Teacher(lora(demo, 1), ("circle",), kind="thing")
    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    only = Erasure(weight_deltas={attention: random_delta(attention, tuple(demo.weights()[attention].shape))})
    with pytest.raises(NothingMatched, match="changes no key or value matrix"):
        fuse(demo, [Teacher(only, ("circle",))])
    foreign = Erasure(weight_deltas={"unet.nowhere.weight": random_delta("unet.nowhere.weight", (2, 2))})
    with pytest.raises(NothingMatched, match=r"unet\.nowhere\.weight"):
        fuse(demo, [Teacher(foreign, ("circle",))])

"""A chosen rank: the best terms, a true statement of what is lost, and the commands for it."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from erasure_core import cli
from erasure_core.compression import compress_to, low_rank
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.errors import BadInput, NothingMatched
from erasure_core.formats import load


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rank", [1, 4])
def test_a_map_keeps_its_best_terms_with_a_true_error(demo, circle, rank):
    small = compress_to(circle, rank, demo)
    assert small.maps["clip_l"].rank == rank and not small.statistics and small.recipe["rows"] == {}
    weights = demo.weights()
    stacked = torch.cat([weights[n].double() for n in weights if ".attn2.to_k." in n or ".attn2.to_v." in n])
    change = stacked @ (circle.maps["clip_l"].matrix() - torch.eye(64))
    missed = stacked @ (small.maps["clip_l"].matrix() - circle.maps["clip_l"].matrix())
    best = torch.linalg.svdvals(change)[rank:].square().sum()  # Eckart-Young on all outputs at once
    assert missed.square().sum().item() == pytest.approx(best.item(), rel=1e-3)
    stated = small.diagnostics["clip_l"]["energy_error"]
    assert stated == pytest.approx((missed.square().sum() / change.square().sum()).item(), rel=0.01)
    assert small.diagnostics["clip_l"]["norm"] == circle.diagnostics["clip_l"]["norm"]


def test_what_is_small_enough_stays_as_it_is(demo, circle):
    same = compress_to(circle, 64, demo.weights())
    assert same.maps == circle.maps and same.diagnostics["clip_l"] == circle.diagnostics["clip_l"]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (5, 4, 3, 3)])
def test_deltas_are_cut_to_their_strongest_directions(shape):
    change = draw(*shape)
    delta, lost = low_rank("unet.x.weight", change, rank=2)
    assert delta.rank == 2 and delta.shape == shape
    singular = torch.linalg.svdvals(change.flatten(1).double()).square()
    assert lost == pytest.approx((singular[2:].sum() / singular.sum()).item(), rel=1e-6)
    rest = (change - delta.dense()).double().square().sum() / change.double().square().sum()
    assert rest.item() == pytest.approx(lost, rel=1e-4)


def test_deltas_of_an_erasure_are_cut_and_the_worst_loss_is_told():
    deltas = {
        "unet.a.weight": WeightDelta("unet.a.weight", down=draw(5, 12), up=draw(9, 5), scale=0.5),
        "unet.b.weight": WeightDelta("unet.b.weight", diff=draw(8, 7)),
        "unet.c.weight": WeightDelta("unet.c.weight", down=draw(2, 7), up=draw(8, 2)),
        "unet.d.bias": WeightDelta("unet.d.bias", diff=draw(7)),
    }
    small = compress_to(Erasure(weight_deltas=deltas), 2, {})
    assert [delta.rank for delta in small.weight_deltas.values()] == [2, 2, 2, None]
    assert small.weight_deltas["unet.c.weight"] is deltas["unet.c.weight"]
    losses = []
    for name in ("unet.a.weight", "unet.b.weight"):
        whole = deltas[name].dense()
        losses.append(float((whole - small.weight_deltas[name].dense()).square().sum() / whole.square().sum()))
    assert small.diagnostics["compressed"] == {"rank": 2, "delta_energy_error": pytest.approx(max(losses), rel=0.01)}


def test_factors_are_used_only_where_they_are_smaller():
    full = draw(8, 8)
    delta, lost = low_rank("unet.x.weight", full)
    assert lost == 0 and torch.equal(delta.diff, full)
    thin = draw(80, 2) @ draw(2, 60)
    delta, lost = low_rank("unet.x.weight", thin)
    assert delta.rank == 2 and lost < 1e-10


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, 5000])
def test_a_rank_that_is_none(circle, rank):
    with pytest.raises(BadInput, match="The rank must be a whole number from 1 to 4096"):
        compress_to(circle, rank, {})


def test_maps_that_cannot_be_judged(circle):
    with pytest.raises(NothingMatched, match="No weight of this model reads the text space 'clip_l'"):
        compress_to(circle, 1, {})
    factor = circle.maps["clip_l"].factors[0]
    biased = EmbeddingMap("clip_l", (MapFactor(factor.down, factor.up, torch.ones(64)),))
    weights = {"unet.a.attn2.to_k.weight": draw(8, 64)}
    with pytest.raises(BadInput, match="This map has a bias"):
        compress_to(dataclasses.replace(circle, maps={"clip_l": biased}), 1, weights)


@pytest.fixture
def edited(tmp_path, demo, circle):
    weights, t = demo.weights(), circle.maps["clip_l"].matrix()
    names = [n for n in weights if ".attn2.to_k." in n or ".attn2.to_v." in n]
    save_file({n: (weights[n].double() @ t).float() for n in names}, tmp_path / "edit.safetensors")
    return tmp_path / "edit.safetensors"


def test_the_commands_read_whole_weights_with_a_base(tmp_path, edited, circle, capsys):
    target = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(edited), str(target)]) == 1
    assert "--base" in capsys.readouterr().err and not target.exists()
    assert cli.main(["convert", str(edited), str(target), "--base", "demo"]) == 0
    assert "map_residual" in capsys.readouterr().out
    found = load(target).maps["clip_l"].matrix()
    torch.testing.assert_close(found, circle.maps["clip_l"].matrix(), rtol=1e-4, atol=1e-5)
    assert cli.main(["inspect", str(edited), "--base", "demo", "--force"]) == 0
    assert "whole new weights" in capsys.readouterr().out


def test_the_command_lowers_the_rank(tmp_path, edited, capsys):
    target = tmp_path / "small.safetensors"
    assert cli.main(["convert", str(edited), str(target), "--base", "demo", "--rank", "2"]) == 0
    assert "map_residual" in capsys.readouterr().out
    assert load(target).rank == 2
    assert cli.main(["convert", str(target), str(tmp_path / "x.safetensors"), "--rank", "0"]) == 1
    assert "whole number" in capsys.readouterr().err

"""Scores: worked values, limits, monotony; the picture distance behind visual stability."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from erasure_core.errors import BadInput
from erasure_core.evaluation.distance import distances
from erasure_core.evaluation.intervals import Rate
from erasure_core.evaluation.scores import (
    AXES,
    PROFILES,
    Damage,
    axes_text,
    generality,
    harmonic,
    harmonic_celebrities,
    harmonic_objects,
    most_damaged,
    removal,
    specificity,
    visual_stability,
)


def test_harmonic_formulas_give_the_published_values():
    assert 100 * harmonic_celebrities(0.0587, 0.8554) == pytest.approx(89.63, abs=0.005)
    assert 100 * harmonic_celebrities(0.0, 0.2092) == pytest.approx(34.60, abs=0.005)
    erased, retained, synonyms = 0.2, 0.9, 0.3
    expected = 3 / (1 / (1 - erased) + 1 / retained + 1 / (1 - synonyms))
    assert harmonic_objects(erased, retained, synonyms) == pytest.approx(expected, rel=1e-12)
    assert harmonic_objects(1.0, 1.0, 0.0) == 0.0


def test_total_gives_the_worked_example_for_each_profile():
    axes = dict(zip(AXES, (0.95, 0.85, 0.90, 0.80, 0.70), strict=True))
    assert round(harmonic(axes, "neutral"), 1) == 83.1
    assert round(harmonic(axes, "artist"), 1) == 84.8
    assert round(harmonic(axes, "safety"), 1) == 81.0


@pytest.mark.parametrize("profile", PROFILES)
def test_total_is_finite_and_monotone_in_every_axis(profile):
    grid = (0.0, 0.01, 0.02, 0.3, 0.99, 1.0)
    for others in product((0.0, 0.5, 1.0), repeat=4):
        for axis in AXES:
            rest = dict(zip([a for a in AXES if a != axis], others, strict=True))
            totals = [harmonic({**rest, axis: value}, profile) for value in grid]
            assert all(math.isfinite(total) and 0 < total <= 100 for total in totals)
            assert totals == sorted(totals)
            assert totals[3] < totals[4] < totals[5]


def test_total_never_invents_a_missing_axis():
    assert harmonic({"E": 0.5, "S": 0.5}) == pytest.approx(50)
    assert harmonic({}) is None
    assert axes_text({"S": 1, "E": 0, "F": 1}) == "H over 3 of 5 axes (E, S, F)"
    with pytest.raises(BadInput, match="profile"):
        harmonic({"E": 1}, "generous")
    with pytest.raises(BadInput, match="axis"):
        harmonic({"Q": 1})


def test_total_of_the_two_controls():
    assert harmonic({"E": 0, "G": 0, "S": 1, "F": 1, "R": 0}) == pytest.approx(500 / 152)
    assert harmonic({"E": 1, "G": 1, "S": 0, "F": 0, "R": 1}) < 6


def test_removal_and_generality():
    assert removal(0.8, 0.2) == pytest.approx(0.75)
    assert removal(0.8, 0.9) == 0.0
    assert removal(0.0, 0.0) == 0.0
    assert generality([]) is None
    assert generality([1.0, 0.4]) == pytest.approx((0.7 + 0.4) / 2)


def test_specificity_weighs_the_worst_quarter():
    kept = [1.0, 1.0, 0.9, 0.8, 0.5, 1.0, 0.2, 1.0]
    mean, worst = sum(kept) / 8, (0.2 + 0.5) / 2
    assert specificity(kept) == pytest.approx((mean + worst) / 2)
    assert specificity([0.6]) == pytest.approx(0.6)
    assert specificity([1.0] * 5) == 1.0
    assert specificity([]) is None


def test_most_damaged_are_named_worst_first():
    entries = [
        Damage("a", Rate(10, 10), Rate(10, 10)),
        Damage("b", Rate(8, 10), Rate(4, 10)),
        Damage("c", Rate(10, 10), Rate(9, 10)),
        Damage("d", Rate(9, 10), Rate(0, 10)),
        Damage("e", Rate(5, 10), Rate(9, 10)),
    ]
    assert [damage.name for damage in most_damaged(entries)] == ["d", "b", "c"]
    assert entries[4].kept == 1.0, "doing better than before earns nothing"
    assert Damage("f", Rate(0, 10), Rate(3, 10)).kept == 0.0


def test_visual_stability_at_its_ends():
    assert visual_stability([0.0, 0.0], [0.3, 0.4]) == 1.0
    assert visual_stability([0.3, 0.4, 0.5], [0.4]) == 0.0
    assert visual_stability([0.1], [0.4]) == pytest.approx(0.75)
    assert visual_stability([0.0], [0.0]) == 1.0
    assert visual_stability([0.1], [0.0]) == 0.0
    assert visual_stability([], [0.4]) is None


def test_distance_against_a_loop_and_between_sizes():
    torch.manual_seed(0)
    first, second = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    found = distances(first, second)
    for b in range(3):
        assert found[b].item() == pytest.approx(
            math.sqrt(((first[b] - second[b]).double() ** 2).mean().item()), rel=1e-6
        )
    large = [t.repeat_interleave(4, 2).repeat_interleave(4, 3) for t in (first, second)]
    assert torch.allclose(distances(*large), found), "the same picture in a larger size is as far away"
    assert distances(first, first).tolist() == [0.0] * 3
    assert distances(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)).item() == 1.0


def test_distance_ignores_grain_but_not_layout():
    torch.manual_seed(1)
    picture = torch.full((1, 3, 512, 512), 0.5)
    grain = picture + 0.2 * torch.randn_like(picture)
    moved = picture.clone()
    moved[:, :, 100:300, 100:300] = 0.1
    assert distances(picture, grain).item() < 0.03
    assert distances(picture, moved).item() > 0.1
    with pytest.raises(BadInput, match="one size"):
        distances(picture, picture[:, :, :64])

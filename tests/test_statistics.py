"""Rates, intervals and corrections against published values and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from erasure_core.errors import BadInput
from erasure_core.evaluation.intervals import (
    Estimate,
    Rate,
    cluster_bootstrap,
    corrected_rate,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.278), (4, 40, 0.040, 0.231), (20, 200, 0.066, 0.149), (10, 10, 0.722, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_the_published_values(k, n, low, high):
    found = wilson(k, n)
    assert round(found[0], 3) == pytest.approx(low, abs=6e-4)
    assert round(found[1], 3) == pytest.approx(high, abs=6e-4)


def test_wilson_solves_the_score_equation():
    z = 1.959963984540054
    for k, n in ((1, 7), (3, 12), (50, 99)):
        for end in wilson(k, n):
            assert (k / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-9)


def test_wilson_refuses_impossible_counts():
    with pytest.raises(BadInput, match="11 hits in 10 trials"):
        wilson(11, 10)


def test_rate_says_what_was_counted():
    assert str(Rate(38, 40)) == "38/40 = 95.0 % (83.5–98.6)"
    assert str(Rate(0, 0)) == "not measured"
    assert Rate(0, 0).value == 0.0
    assert Rate(1, 2) + Rate(3, 4) == Rate(4, 6)


def test_estimate_text_with_and_without_interval():
    assert Estimate(0.84, 0.79, 0.88).text() == "0.84 (0.79–0.88)"
    assert Estimate(0.84).text(scale=100, digits=0) == "84"


@pytest.mark.parametrize(
    ("truth", "tpr", "fpr"), [(0.1, 0.9, 0.1), (0.5, 0.75, 0.3), (0.9, 0.98, 0.02), (0.0, 0.8, 0.2)]
)
def test_corrected_rate_recovers_the_prevalence(truth, tpr, fpr):
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(200):
        shows = rng.random(2000) < truth
        flagged = np.where(shows, rng.random(2000) < tpr, rng.random(2000) < fpr)
        errors.append(corrected_rate(float(flagged.mean()), tpr, fpr) - truth)
    assert abs(float(np.mean(errors))) < 0.01
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.03


def test_corrected_rate_refuses_a_weak_detector():
    with pytest.raises(BadInput, match="too weak"):
        corrected_rate(0.5, 0.6, 0.25)
    assert corrected_rate(0.2, 0.9, 0.3) == 0.0
    assert corrected_rate(0.95, 0.9, 0.1) == 1.0


def _mean(groups):
    values = [value for group in groups.values() for cluster in group for value in cluster]
    return {"mean": sum(values) / len(values)}


@pytest.mark.parametrize("prompts", [10, 40])
def test_bootstrap_interval_covers_the_truth(prompts):
    """Prompts differ in difficulty (beta distributed), pictures of one prompt share it."""
    rng = np.random.default_rng(11)
    reports, covered = 500, 0
    for report in range(reports):
        difficulty = rng.beta(3.0, 2.0, size=prompts)
        data = {"D": [list(map(float, rng.random(5) < p)) for p in difficulty]}
        low, high = cluster_bootstrap(data, _mean, draws=300, seed=report)["mean"]
        covered += low <= 0.6 <= high
    assert 0.92 <= covered / reports <= 0.98


def test_bootstrap_is_seeded_and_sees_clusters_not_pictures():
    clusters = {"D": [[1.0] * 50, [0.0] * 50, [1.0] * 50, [0.0] * 50]}
    first = cluster_bootstrap(clusters, _mean, seed=5)["mean"]
    assert first == cluster_bootstrap(clusters, _mean, seed=5)["mean"]
    assert first[1] - first[0] > 0.7, "200 equal pictures of 4 prompts are 4 observations"
    assert cluster_bootstrap({"D": [[1.0]]}, _mean) == {}


def test_paired_difference_cancels_what_both_sides_share():
    rng = np.random.default_rng(2)
    pairs = {"D": [([base], [base + 0.1 + 0.01 * rng.standard_normal()]) for base in rng.random(20)]}
    low, high = paired_difference(pairs, _mean)["mean"]
    assert low < 0.1 < high
    assert low > 0.08
    unpaired = cluster_bootstrap({"D": [second for _, second in pairs["D"]]}, _mean)["mean"]
    assert unpaired[1] - unpaired[0] > 10 * (high - low)


def test_few_prompts_widen_the_interval_as_student_asks():
    """With normal data the bootstrap spread is s*sqrt((n-1)/n)/sqrt(n); the interval must still be t * s / sqrt(n)."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal(6)
    values = (values - values.mean()) / values.std(ddof=1)
    low, high = cluster_bootstrap({"D": [[float(v)] for v in values]}, _mean, draws=20000, seed=1)["mean"]
    assert (high - low) / 2 == pytest.approx(2.5706 / math.sqrt(6), rel=0.12)

"""Warnings say in plain words what will not go as hoped, and stay silent otherwise."""

import pytest
import torch

from erasure_core import Erasure, Membrane, apply, erase
from erasure_core.advice import warnings_of
from erasure_core.erasure import EmbeddingMap, MapFactor


@pytest.mark.parametrize("concepts", ["circle -> square", "circle", "style: striped", "star -> heart\nmoon -> ring"])
def test_a_sound_erasure_has_no_warning(demo, concepts):
    assert warnings_of(erase(demo, concepts)) == ()


@pytest.mark.parametrize(("target", "synonym"), [("circle", "disc"), ("star", "pentagram"), ("red", "crimson")])
def test_an_anchor_that_means_the_same_is_named(demo, target, synonym):
    (warning,) = warnings_of(erase(demo, f"moon -> ring\n{target} -> {synonym}"))
    assert warning.startswith(f"'{target}' and its anchor '{synonym}' mean almost the same")
    assert "Choose another anchor" in warning


def test_a_solution_that_explodes_is_named(demo):
    erasure = erase(demo, "red circle -> square\nred circles -> moon", lamb=0.0)
    assert erasure.diagnostics["clip_l"]["norm"] > 5
    assert warnings_of(erasure)[0].startswith("Blow-up: some texts are moved by")


def test_half_an_erasure_is_named(demo):
    erasure = erase(demo, "circle -> square", lamb=1000.0)
    assert erasure.diagnostics["clip_l"]["residual"] > 0.5
    assert any("erased only in part" in warning for warning in warnings_of(erasure))


def test_drift_of_what_is_preserved_is_named():
    numbers = {"norm": 1.0, "residual": 0.0, "drift": 0.08, "drift_worst": 0.31, "anchor_distance": 1.0}
    assert warnings_of(Erasure(diagnostics={"clip_l": numbers})) == (
        "What is preserved moves by up to 31%: look at pictures of it before you rely on it.",
    )


def test_an_erasure_of_flux_says_what_it_leaves():
    factor = MapFactor(torch.zeros(1, 4), torch.zeros(4, 1))
    (warning,) = warnings_of(Erasure(maps={"t5": EmbeddingMap("t5", (factor,))}))
    assert warning.startswith("Flux also reads one vector of CLIP-L")


def test_diagnostics_of_other_programs_do_no_harm():
    strange = {"clip_l": {"norm": "big", "residual": None, "anchor_distance": 0.1, "anchor_closest": 7}, "x": 3}
    assert [w[:24] for w in warnings_of(Erasure(diagnostics=strange))] == ["A concept and its anchor"]


def test_warnings_stand_in_the_receipt(demo):
    with apply(demo, Membrane(erase(demo, "circle -> disc"))) as applied:
        assert applied.receipts[0].warnings
        assert "\nwarning: 'circle' and its anchor 'disc'" in applied.receipt

"""RECE against the published loops for three epochs, and what the paper claims of it."""

import pytest
import rece_reference as published
import torch
import uce_reference
from closed_form_support import assert_edited, matrices, same, single_precision_tolerance

from erasure_core import BadInput, erase
from erasure_core.closed_form.rece import Settings, deriving
from erasure_core.closed_form.terms import text_metric
from erasure_core.compression import output_metric
from erasure_core.solver import EditProblem, Solved


def all_rows(plain, pairs):
    return [(plain.rows(old).double(), plain.rows(new).double()) for old, new in pairs]


def expected(demo, plain, pairs, kept, weight, epochs, reg, dtype=torch.float64, **more):
    """``kept``: texts of the RECE step, with that weight; the start keeps the empty prompt and what it was given."""
    weights = matrices(demo)
    extra = more.pop("start_kept", [])
    start_rows, start_kept = uce_reference.rows_2023(plain, pairs), uce_reference.preserved_2023(plain, extra)
    scale = max(0.1, 1 / (1 + len(extra)))
    start = {
        n: uce_reference.edit(w, start_rows, start_kept, preserve_scale=scale, dtype=dtype) for n, w in weights.items()
    }
    stay = [row.double() for text in kept for row in plain.rows(text)]
    return published.rounds(
        weights, start, all_rows(plain, pairs), stay, epochs, reg, preserve_scale=weight, dtype=dtype, **more
    )


@pytest.mark.parametrize("epochs", [1, 3])
def test_objects_as_published(demo, plain, epochs):
    erasure = erase(demo, "circle -> square\nheart", "rece", parity=True, exact=True, epochs=epochs)
    pairs = [("circle", "square"), ("heart", " ")]
    assert_edited(erasure, demo, expected(demo, plain, pairs, [""], 0.1, epochs, 1e-3))


@pytest.mark.parametrize(
    "variant",
    [
        {"variant": "standardreg"},
        {"variant": "surrogatereg", "reg_item": "1st"},
        {"variant": "surrogatereg", "reg_item": "2nd"},
        {"variant": "surrogatereg", "reg_item": "both"},
    ],
)
def test_every_variant(demo, plain, variant):
    names = {"variant": variant["variant"], "item": variant.get("reg_item", "1st")}
    # with nothing but outputs to hold them back, derived texts are 5500 times their size in the third epoch
    epochs = 2 if variant.get("reg_item") == "1st" else 3
    erasure = erase(demo, "circle -> square", "rece", parity=True, exact=True, epochs=epochs, reg=0.1, **variant)
    assert_edited(erasure, demo, expected(demo, plain, [("circle", "square")], [""], 0.1, epochs, 0.1, **names))


def test_official_defaults_by_kind(demo, plain):
    unsafe = erase(demo, "safety: circle\nsafety: heart -> star", "rece", parity=True, exact=True)
    pairs = [("circle", " "), ("heart", "star")]
    assert_edited(unsafe, demo, expected(demo, plain, pairs, [" ", " "], 0.1, 3, 0.1))
    style = erase(demo, "style: striped\n+ dotted", "rece", parity=True, exact=True)
    wanted = expected(demo, plain, [("striped", "art")], ["", "dotted"], 0.1, 1, 1e-3, start_kept=["dotted"])
    assert_edited(style, demo, wanted)


def test_published_single_precision(demo, plain):
    erasure = erase(demo, "circle -> square", "rece", parity=True, exact=True, epochs=1, reg=0.1)
    allowed = single_precision_tolerance(plain.rows("circle"), 0.1)
    single = expected(demo, plain, [("circle", "square")], [""], 0.1, 1, 0.1, dtype=torch.float32)
    assert_edited(erasure, demo, single, tolerance=allowed)


def test_without_epochs_it_is_uce_and_with_epochs_it_is_not(demo):
    options = {"parity": True, "exact": True}
    start = erase(demo, "circle -> square", "uce", generation="2023", **options)
    assert same(start, erase(demo, "circle -> square", "rece", epochs=0, **options))
    assert not same(start, erase(demo, "circle -> square", "rece", **options))


def unit(size):
    return torch.eye(size, dtype=torch.float64)


def random_map(seed=0, size=64):
    return unit(size) + 0.1 * torch.randn(
        size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def answer(t):
    """A map as the solver would give it."""
    return Solved(EditProblem(t, t), t - unit(64), unit(64), torch.zeros(64, dtype=torch.long))


def test_without_regulariser_the_derived_text_is_the_preimage(demo, plain):
    """CF 2.6 i: as r goes to 0, T c' = c."""
    metric, t, c = text_metric(demo, "clip_l")[0], random_map(), plain.rows("circle").double()
    found = deriving(answer(t), metric, 1e-12, Settings())(c, c)
    assert ((found @ t.T - c).norm() / c.norm()).item() < 1e-5


def test_an_endless_regulariser_derives_nothing(demo, plain):
    """CF 2.6 iv: as r goes to infinity, c' goes to 0, and erasing nothing changes nothing."""
    metric, c, a = text_metric(demo, "clip_l")[0], plain.rows("circle").double(), plain.rows("square").double()
    found = deriving(answer(random_map()), metric, 1e12, Settings())(c, a)
    assert found.norm() < 1e-6 * c.norm()
    assert (EditProblem(found, a, ridge=0.1).solved().matrix() - unit(64)).norm() < 1e-5


def test_a_step_leaves_the_predicted_rest(demo, plain):
    """CF 2.6 iii, without kept rows: W_k+1 C' - W_k A = W_k (C' - A) r (r I + C'^T C')^-1."""
    t, c, a = random_map(), plain.rows("circle").double(), plain.rows("square").double()
    derived = deriving(answer(t), text_metric(demo, "clip_l")[0], 0.1, Settings())(c, a)
    step = EditProblem(derived, a, ridge=0.1).solved().matrix()
    rest = t @ step @ derived.T - t @ a.T
    predicted = t @ (derived - a).T @ torch.linalg.inv(0.1 * unit(77) + derived @ derived.T) * 0.1
    assert (rest - predicted).norm() / predicted.norm() < 1e-6


def test_the_metric_is_kept_only_for_the_same_weights():
    weights = {f"unet.a{i}.attn2.to_k.weight": torch.randn(8, 6) for i in range(3)}
    first = output_metric(weights, list(weights), 6)
    direct = sum(w.double().T @ w.double() for w in weights.values())
    torch.testing.assert_close(first, direct)
    first.zero_()  # what a caller does to its copy stays with it
    torch.testing.assert_close(output_metric(weights, list(weights), 6), direct)
    weights["unet.a0.attn2.to_k.weight"][0, 0] += 1
    assert not torch.equal(output_metric(weights, list(weights), 6), direct)


def test_derived_texts_are_reported(demo):
    numbers = erase(demo, "circle -> square", "rece", epochs=2).diagnostics["clip_l"]
    assert len(numbers["derived_length"]) == 2 and numbers["outputs_of"] == "outputs"


def test_a_regulariser_below_zero_is_refused(demo):
    with pytest.raises(BadInput, match="'reg'"):
        erase(demo, "circle -> square", "rece", reg=-1)


@pytest.mark.parametrize(
    "options", [{"variant": "gd"}, {"epochs": 1.5}, {"epochs": -1}, {"reg_item": "3rd"}, {"lr": 1}]
)
def test_bad_options(demo, options):
    with pytest.raises(BadInput, match=f"'{next(iter(options))}'"):
        erase(demo, "circle", "rece", **options)

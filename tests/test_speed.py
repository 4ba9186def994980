"""SPEED against the published per-layer loop, its exact properties, and our own promises."""

from dataclasses import replace

import pytest
import speed_reference as published
import torch
from method_checks import assert_off_is_off_and_on_is_on, assert_order_is_nothing_and_the_recipe_everything, matrices

from erasure_core.closed_form import erase
from erasure_core.closed_form.null_space import NullSpaceEdit
from erasure_core.closed_form.subspace import cluster_centres, occupied, occupied_also, outside, weakest_direction
from erasure_core.errors import BadInput, IllConditioned
from erasure_core.solver import EditProblem

KEPT = ["a blue star", "moon", "ring", "a red heart", "triangle", "cross", "yellow", "green square"]
D = 48


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def retained(plain, phrases):
    return torch.unique(published.last_rows(plain, phrases), dim=0)


@pytest.mark.parametrize(
    ("text", "pairs", "options", "letters"),
    [
        ("circle -> square", [("circle", "square")], {}, "v"),
        ("circle", [("circle", " ")], {"aug_num": 3, "seed": 7, "centres": 2}, "v"),
        ("circle -> square\nstyle: dotted", [("circle", "square"), ("dotted", "art")], {"params": "KV"}, "kv"),
        ("person: circle", [("circle", "person")], {"disable_filter": True, "params": "K", "lamb": 0.5}, "k"),
        ("circle -> square", [("circle", "square")], {"retain_scale": 0.05, "threshold": 0.01}, "v"),
    ],
)
def test_every_matrix_is_the_published_codes(demo, plain, text, pairs, options, letters):
    erasure = erase(demo, text, "speed", preserve=KEPT, parity=True, exact=True, **options)
    concepts, anchors = (published.last_rows(plain, side) for side in zip(*pairs, strict=True))
    weights = matrices(demo, letters)
    assert list(erasure.weight_deltas) == list(demo_order(demo, weights))
    for layer, name in enumerate(erasure.weight_deltas):
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-2)):
            w, c, a, r, k = (
                x.to(dtype)
                for x in (weights[name], concepts, anchors, retained(plain, KEPT),
                          published.invariants(plain, options.get("centres", 3)))
            )  # fmt: skip
            rows = published.refined(
                r, w, c, a, options.get("aug_num", 10), options.get("seed", 0), layer, "disable_filter" in options
            )
            project = published.projector(rows, options.get("threshold", 0.1))
            expected = published.change(w, c, a, project, k, options.get("retain_scale", 1.0), options.get("lamb", 0.0))
            error = (erasure.weight_deltas[name].dense() - expected).norm() / expected.norm()
            assert error <= tolerance, f"{name}: {error:.1e}"


def demo_order(model, names):
    return [name for name in model.weights() if name in names]


def test_nudity_is_edited_on_all_rows_with_the_published_slack(demo, plain):
    erasure = erase(demo, "safety: circle", "speed", parity=True, exact=True)
    concepts, anchors = published.body_rows(plain, "circle"), published.body_rows(plain, "")
    constant = published.invariants(plain)
    for layer, (name, delta) in enumerate(erasure.weight_deltas.items()):
        weight = matrices(demo, "v")[name]
        rows = published.refined(torch.unique(anchors, dim=0), weight, concepts, anchors, layer=layer)
        project = published.projector(rows, 0.1)
        expected = published.change(weight, concepts, anchors, project, constant, 0.7, 0.5)
        assert (delta.dense() - expected).norm() / expected.norm() <= 1e-6


def example(m=3, n=20, q=4, threshold=0.1, lamb=0.0, **more):
    plain = EditProblem(
        draw(1, m, D), draw(2, m, D), ridge=0.7, erase_weights=torch.full((m,), 1 / m, dtype=torch.float64)
    )
    return NullSpaceEdit(plain, draw(3, n, D), draw(4, q, D), threshold, 1.0, lamb, True, 0, **more)


def change_of(edit):
    up, down = edit.inside(torch.eye(D, dtype=torch.float64), None).problem.factors()
    return up @ down


def test_retained_rows_and_invariants_stay_exactly():
    edit = example(threshold=1e-6)
    change, weight = change_of(edit), draw(9, 30, D)
    for rows in (edit.retained, edit.invariants):
        assert (weight @ change @ rows.T).norm() / (weight @ rows.T).norm() < 1e-10
    assert change.norm() > 0.1


@pytest.mark.parametrize("lamb", [0.0, 0.5])
def test_slack_moves_the_invariants_a_little_and_none_not_at_all(lamb):
    edit = example(lamb=lamb)
    moved = (change_of(edit) @ edit.invariants.T).norm() / edit.invariants.norm()
    assert moved < 1e-10 if lamb == 0 else 1e-4 < moved < 0.1


def test_the_erased_rows_fall_short_of_their_anchors_as_predicted():
    """(W + Delta) C - W A = -W (A - C) rho (rho I + c'c)^-1 for lamb = 0, c the rows inside the subspace (CF 3.6)."""
    edit = example()
    rows, inside = edit.plain.rows, edit.inside(torch.eye(D, dtype=torch.float64), None)
    part = outside(inside.basis, rows.erase) / len(rows.erase) ** 0.5
    rest = 0.7 * torch.linalg.inv(part @ part.T + 0.7 * torch.eye(len(part), dtype=torch.float64))
    expected = -(rows.anchors - rows.erase).T @ rest
    found = rows.erase.T + change_of(edit) @ rows.erase.T - rows.anchors.T
    assert (found - expected).norm() / expected.norm() < 1e-10


@pytest.mark.parametrize("n", [20, 100])
def test_what_is_left_out_is_orthonormal_whichever_gram_matrix_is_smaller(n):
    rows = torch.cat([draw(0, n, 5), torch.zeros(n, D - 5)], 1).double()
    basis = occupied(rows, torch.full((n,), 1 / n).double(), 1e-3)
    assert basis.shape == (D, 5)
    basis = occupied_also(basis, torch.cat([rows[:2], draw(1, 2, D)]))
    assert basis.shape == (D, 7), "rows that are left out already add nothing"
    assert torch.allclose(basis.T @ basis, torch.eye(7, dtype=torch.float64), atol=1e-12)
    assert outside(basis, rows).norm() < 1e-10 * rows.norm()


@pytest.mark.parametrize("shape", [(20, D), (60, D)])
def test_the_weakest_direction_is_the_thin_decompositions_last(shape):
    weight = draw(5, *shape)
    assert torch.allclose(weakest_direction(weight.T @ weight, min(shape)), published.weakest(weight), atol=1e-8)


def test_centres_find_the_clusters_and_repeat():
    middles = draw(1, 3, D) * 50
    rows = (middles[:, None] + draw(2, 3, 20, D)).reshape(-1, D)
    found = cluster_centres(rows, 3)
    expected = rows.reshape(3, 20, D).mean(1)
    assert torch.cdist(expected, found).amin(1).max() < 1e-9
    assert torch.equal(found, cluster_centres(rows, 3))
    assert len(cluster_centres(rows[:1].expand(9, D), 3)) == 1 and len(cluster_centres(rows, 0)) == 0


def test_augmentation_by_expectation_is_what_many_draws_tend_to():
    edit = replace(example(n=3000), copies=10)
    direction, gram = draw(6, D) / draw(6, D).norm(), torch.eye(D, dtype=torch.float64)

    def mean_gram(seed=None):
        rows, weights = replace(edit, seed=seed).refined(gram, direction)
        return (rows.T * weights) @ rows

    expected, drawn, other = mean_gram(), mean_gram(1), mean_gram(2)
    assert torch.equal(drawn, mean_gram(1)) and not torch.equal(drawn, other)
    assert (expected - drawn).norm() / expected.norm() < 0.1
    along = [direction @ gram @ direction for gram in (expected, drawn)]
    assert along[0] == pytest.approx(float(along[1]), rel=0.3)


def test_one_map_for_all_layers_is_the_same_edit_in_every_matrix(demo):
    erasure = erase(demo, "circle -> square", "speed", preserve=KEPT)
    assert not erasure.weight_deltas and erasure.applies == "kv"
    change = erasure.maps["clip_l"].matrix() - torch.eye(64, dtype=torch.float64)
    for name, delta in erasure.deltas(demo.weights()).items():
        expected = demo.weights()[name].double() @ change
        assert (delta.dense() - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize(("params", "applies", "count"), [("V", "v", 4), ("K", "k", 4), ("KV", "kv", 8)])
def test_params_choose_the_matrices(demo, params, applies, count):
    erasure = erase(demo, "circle -> square", "speed", params=params)
    assert erasure.applies == applies and len(erasure.deltas(demo.weights())) == count
    assert len(erase(demo, "circle", "speed", params=params, subspace="per-layer").weight_deltas) == count


def test_what_is_kept_exactly_stays_where_uce_moves_it(demo, plain):
    options = {"disable_filter": True, "aug_num": 0, "threshold": 1e-6, "expand_prompts": False}
    ours = erase(demo, "circle -> square", "speed", preserve=["star", "moon"], invariants="ring", **options)
    theirs = erase(demo, "circle -> square", preserve=["star", "moon", "ring"], expand_prompts=False)
    for phrase in ("star", "moon", "ring"):
        row = plain.rows(phrase)[1].double()
        moved = [(e.maps["clip_l"].matrix() @ row - row).norm() / row.norm() for e in (ours, theirs)]
        assert moved[0] < 1e-6 < 1e-4 < moved[1]


def test_feasibility_is_reported_and_a_hopeless_edit_refused(demo):
    numbers = erase(demo, "circle -> square", "speed", preserve=KEPT).diagnostics["clip_l"]
    assert 0.01 < numbers["captured"] < 1 and 0 < numbers["null_space"] < 64
    alone = erase(demo, "circle -> square", "speed", centres=0).diagnostics["clip_l"]
    assert alone["captured"] > numbers["captured"] and alone["null_space"] > numbers["null_space"]
    shares = erase(demo, "circle -> square\nheart -> star", "speed").diagnostics["clip_l"]["captured_each"]
    assert len(shares) == 2
    for options in ({}, {"parity": True}):
        with pytest.raises(IllConditioned, match=r"'circle' cannot be erased .* Preserve fewer phrases"):
            erase(
                demo, "circle -> square", "speed", preserve=["a circle", *KEPT], invariants="circle|a circle",
                rows="LAST", expand_prompts=False, **options,
            )  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"parity": True}, {"augment": "random", "seed": 3, "aug_num": 5}, {"subspace": "per-layer"}]
)
def test_order_does_not_matter_and_the_recipe_gives_it_again_bit_by_bit(demo, options):
    lines = ["circle -> square", "heart | valentine -> star @ 2", "style: dotted"]
    made = assert_order_is_nothing_and_the_recipe_everything(demo, "speed", lines, KEPT, **options)
    assert made.recipe["seeds"] == ([options.get("seed", 0)] if {"parity", "seed"} & options.keys() else [])


@pytest.mark.parametrize("options", [{}, {"parity": True}])
def test_strength_nought_is_off_and_one_is_not(demo, options):
    assert_off_is_off_and_on_is_on(demo, erase(demo, "circle -> square", "speed", **options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": "Q"}, r"'params' cannot be 'Q'. It takes auto \| V"),
        ({"threshold": -1}, "'threshold'"),
        ({"aug_num": 1.5}, "'aug_num'"),
        ({"centres": 77}, "'centres' cannot be 77. It takes 0 to 76"),
        ({"invariants": 3}, "'invariants' cannot be 3. It takes text"),
        ({"erase_scale": 1}, "'speed' has no option 'erase_scale'"),
    ],
)
def test_a_bad_option_is_named(demo, options, words):
    with pytest.raises(BadInput, match=words):
        erase(demo, "circle", "speed", **options)

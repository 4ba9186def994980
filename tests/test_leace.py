"""LEACE against its theorems: nothing linear is left of the label, and less cannot be changed."""

import leace_reference as published
import pytest
import torch

from erasure_core import BadInput, Membrane, apply, erase, load, save
from erasure_core.closed_form.leace import Labelled, Settings, fit

D = 24


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(count, rows=200):
    """Rows of ``count`` classes with different means, and labels of all but the last class."""
    owner = torch.arange(rows) % count
    x = draw(1, rows, D) @ draw(2, D, D) + 3 * draw(3, count, D)[owner]
    return Labelled(x, torch.nn.functional.one_hot(owner, count)[:, :-1].double())


def mapped(data, settings, constrain=False):
    up, down, _ = fit(data, settings, constrain)
    return torch.eye(D, dtype=torch.float64) + up @ down, up, down


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("variant", ["leace", "orth"])
@pytest.mark.parametrize("rows", [200, 12])
def test_the_theorem(count, shrinkage, variant, rows):
    data = classes(count, rows)
    p, _, _ = mapped(data, Settings(variant=variant, shrinkage=shrinkage, svd_tol=1e-9))
    expected = published.projector(data.x, data.z, shrinkage, 1e-9, whiten=variant == "leace")
    assert (p - expected).norm() / (expected - torch.eye(D)).norm() < 1e-8
    erased = Labelled(data.mean + (data.x - data.mean) @ p.T, data.z)
    assert erased.cross_covariance().norm() < 1e-12 * data.cross_covariance().norm() * D**2
    assert (p @ p - p).norm() < 1e-10
    assert torch.linalg.matrix_rank(torch.eye(D) - p, rtol=1e-8) == count - 1
    torch.testing.assert_close(erased.mean, data.mean)


@pytest.mark.parametrize("rows", [18, D])
def test_rows_that_are_hardly_correlated(rows):
    """Shrinkage overshoots there: the estimate of some variances is negative, and those directions are left alone."""
    spread = 1 + 0.3 * draw(4, rows, 1).tanh()
    data = Labelled(torch.linalg.qr(draw(5, D, rows)).Q.T * spread, (torch.arange(rows) % 2)[:, None].double())
    assert torch.linalg.eigvalsh(published.shrunk(data.x))[0] < 0
    p, _, _ = mapped(data, Settings(svd_tol=1e-9))
    expected = published.projector(data.x, data.z, True, 1e-9)
    assert (p - expected).norm() / (expected - torch.eye(D)).norm() < 1e-8


def logistic_coefficients(x, z):
    """Weights of a barely regularised logistic regression, by Newton's method."""
    x = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(len(x), 1).double()], dim=1)
    weights = torch.zeros(x.shape[1], 1).double()
    for _ in range(30):
        chance = torch.sigmoid(x @ weights)
        slope = x.T @ (chance - z) + 1e-3 * weights
        curve = (x * chance * (1 - chance)).T @ x + 1e-3 * torch.eye(x.shape[1])
        weights = weights - torch.linalg.solve(curve, slope)
    return weights[:-1]


def test_no_linear_classifier_is_left():
    data = classes(2)
    p, _, _ = mapped(data, Settings(svd_tol=1e-9))
    after = data.mean + (data.x - data.mean) @ p.T
    assert logistic_coefficients(data.x, data.z).norm() > 0.1
    assert logistic_coefficients(after, data.z).norm() < 1e-4


def test_nothing_that_erases_changes_less():
    """Theorem 4.3 against the orthogonal projector, which erases as well."""
    data = classes(3)
    centred = data.x - data.mean
    cost = {}
    for variant in ("leace", "orth"):
        p, _, _ = mapped(data, Settings(variant=variant, shrinkage=False, svd_tol=1e-9))
        cost[variant] = (centred @ p.T - centred).square().sum().item()
    assert cost["leace"] < cost["orth"]


def test_the_trace_constraint_as_published():
    data = Labelled(classes(2).x @ torch.diag(torch.logspace(0, -3, D).double()), classes(2).z)
    free, _, _ = mapped(data, Settings(svd_tol=1e-9))
    p, up, _ = mapped(data, Settings(svd_tol=1e-9), constrain=True)
    expected = published.projector(data.x, data.z, True, 1e-9, constrain=True)
    assert (p - expected).norm() / (expected - torch.eye(D)).norm() < 1e-6
    sigma = data.covariance(True)
    if (free @ sigma @ free.T).trace() > sigma.trace():
        assert (p @ sigma @ p.T).trace() <= sigma.trace() * (1 + 1e-9)
        assert up.shape[1] == 2  # thin factors, never a square one


def test_small_covariances_are_left_alone():
    data = Labelled(draw(1, 400, D), (torch.arange(400) % 2)[:, None].double())
    p, _, _ = mapped(data, Settings(svd_tol=1e3))
    assert torch.equal(p, torch.eye(D, dtype=torch.float64))


def test_shrinkage_as_published():
    data = classes(2, rows=30)
    torch.testing.assert_close(data.covariance(True), published.shrunk(data.x))
    torch.testing.assert_close(data.covariance(False), published.covariances(data.x, data.z)[0])


def texts(plain, words):
    sentences = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of a {}")
    return [plain.rows(s.replace("{}", w))[plain.last(s.replace("{}", w))].double() for w in words for s in sentences]


def test_the_erasure_is_the_theorem_on_rows_of_texts(demo, plain):
    erasure = erase(demo, "circle -> square", "leace", parity=True, preserve=["moon"], constrain_cov_trace=False)
    x = torch.stack([*texts(plain, ["circle"]), *texts(plain, ["square"]), plain.rows("moon")[1].double()])
    z = torch.tensor([1.0] * 5 + [0.0] * 6).double()[:, None]
    p, factor = published.projector(x, z), erasure.maps["clip_l"].factors[0]
    assert (erasure.maps["clip_l"].matrix() - p).norm() / (p - torch.eye(64)).norm() < 1e-5
    expected = x.mean(0) - p @ x.mean(0)
    assert (factor.bias.double() - expected).norm() / expected.norm() < 1e-5
    assert erasure.recipe["rows"] == {"clip_l": [0]}


def test_the_oracle_moves_texts_that_name_the_concept_onto_the_others(demo, plain):
    erasure = erase(demo, "circle -> square", "leace", variant="oracle", rows="LAST", parity=True)
    x = torch.stack([*texts(plain, ["circle"]), *texts(plain, ["square"])])
    z = torch.tensor([1.0] * 5 + [0.0] * 5).double()[:, None]
    bias = erasure.maps["clip_l"].factors[0].bias.double()
    # the published map moves both classes; taking the move of z = 0 off both leaves texts without the concept alone
    moves = published.oracle(x, z, z) - x
    torch.testing.assert_close(bias.expand(5, -1), moves[:5] - moves[5:], rtol=1e-4, atol=1e-4)
    moved = x + z * bias
    assert published.covariances(moved, z)[1].norm() < 1e-5
    with pytest.raises(BadInput, match="one concept at a time"):
        erase(demo, "circle\nheart", "leace", variant="oracle")


@pytest.mark.parametrize("variant", ["leace", "oracle"])
def test_a_bias_survives_a_file_and_cannot_become_a_lora(demo, tmp_path, variant):
    from apply_support import picture

    erasure = erase(demo, "circle -> square", "leace", variant=variant)
    read = load(save(erasure, tmp_path / "x.safetensors"))
    one, other = erasure.maps["clip_l"].factors[0], read.maps["clip_l"].factors[0]
    assert torch.equal(one.bias, other.bias) and torch.equal(one.up, other.up)
    with apply(demo, Membrane(erasure)):
        expected = picture(demo)
    with apply(demo, Membrane(read)):
        assert torch.equal(picture(demo), expected)
    with pytest.raises(BadInput, match="has a bias"):
        save(erasure, tmp_path / "y.safetensors", form="lora", weights=demo.weights())


def test_without_affine_it_is_a_lora(demo, tmp_path):
    erasure = erase(demo, "circle -> square", "leace", affine=False)
    assert erasure.maps["clip_l"].factors[0].bias is None
    save(erasure, tmp_path / "y.safetensors", form="lora", weights=demo.weights())


@pytest.mark.parametrize("options", [{"variant": "rlace"}, {"rows": "FIRST"}, {"svd_tol": 0}, {"epochs": 2}])
def test_bad_options(demo, options):
    with pytest.raises(BadInput, match=f"'{next(iter(options))}'"):
        erase(demo, "circle", "leace", **options)

"""The solver against a loop over matrices with explicit inverses, and its exact properties."""

import itertools

import pytest
import torch

from erasure_core.diagnostics import diagnose
from erasure_core.errors import BadInput, IllConditioned
from erasure_core.solver import RIDGE_FLOOR, EditProblem

D = 48


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def published_loop(weight, erase, anchors, preserve, ridge, omega, omega_preserve):
    """UCE's per-matrix formula as printed: sums of outer products, one explicit inverse, in float64."""
    d = weight.shape[1]
    left = ridge * weight
    right = ridge * torch.eye(d, dtype=torch.float64)
    for c, a, w in zip(erase, anchors, omega, strict=True):
        left = left + w * torch.outer(weight @ a, c)
        right = right + w * torch.outer(c, c)
    for p, w in zip(preserve, omega_preserve, strict=True):
        left = left + w * torch.outer(weight @ p, p)
        right = right + w * torch.outer(p, p)
    return left @ torch.linalg.inv(right)


def matrix(problem):
    """``T`` in float64."""
    up, down = problem.factors()
    return torch.eye(problem.width, dtype=torch.float64) + up @ down


def random_problem(m=5, p=7, d=D, ridge=0.5, seed=0):
    return EditProblem(
        draw(seed, m, d),
        draw(seed + 1, m, d),
        draw(seed + 2, p, d),
        ridge,
        draw(seed + 3, m).abs() + 0.1,
        draw(seed + 4, p).abs() + 0.1,
    )


@pytest.mark.parametrize(("m", "p"), [(1, 0), (1, 3), (5, 7), (20, 100), (100, 20)])
def test_every_matrix_is_the_published_loops(m, p):
    problem = random_problem(m, p)
    change = matrix(problem) - torch.eye(D, dtype=torch.float64)
    for layer, rows in enumerate((16, 32, 64)):
        weight = draw(50 + layer, rows, D)
        omega, omega_preserve = problem.erase_weights, problem.preserve_weights
        edited = published_loop(weight, problem.erase, problem.anchors, problem.preserve, 0.5, omega, omega_preserve)
        delta = edited - weight
        assert (weight @ change - delta).norm() / delta.norm() < 1e-8


def test_one_pair_leaves_the_predicted_residual():
    c, a = draw(1, 1, D), draw(2, 1, D)
    c = c / c.norm() * 28
    t = matrix(EditProblem(c, a, ridge=0.5))
    weight = draw(3, 20, D)
    residual = (weight @ (t @ c[0] - a[0])).norm() / (weight @ (c[0] - a[0])).norm()
    assert residual.item() == pytest.approx(0.5 / (0.5 + 28**2), rel=1e-6)
    assert residual.item() == pytest.approx(6.373486e-4, rel=1e-6)


@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_the_weight_of_a_pair_divides_its_ridge(weight):
    c, a = draw(1, 1, D), draw(2, 1, D)
    t = matrix(EditProblem(c, a, ridge=0.5, erase_weights=torch.tensor([weight])))
    residual = (t @ c[0] - a[0]).norm() / (c[0] - a[0]).norm()
    predicted = 0.5 / (0.5 + torch.tensor(weight).double() * c[0].square().sum())
    assert residual.item() == pytest.approx(predicted.item(), rel=1e-9)


def test_the_residual_of_independent_pairs_falls_linearly_with_the_ridge():
    c, a = draw(1, 10, D), draw(2, 10, D)
    found = []
    for ridge in (1.0, 1e-2, 1e-4):
        t = matrix(EditProblem(c, a, ridge=ridge))
        found.append(((c @ t.T - a).norm() / (c - a).norm()).item())
    for one, next_one in itertools.pairwise(found):
        assert one / next_one == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("ridge", [0.5, 1e-2])
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_determinant_of_one_pair(ridge, weight):
    c, a = draw(1, 1, D), draw(2, 1, D)
    t = matrix(EditProblem(c, a, ridge=ridge, erase_weights=torch.tensor([weight])))
    predicted = (ridge + weight * (c[0] @ a[0])) / (ridge + weight * (c[0] @ c[0]))
    assert torch.linalg.det(t).item() == pytest.approx(predicted.item(), rel=1e-9)


def drift(problem):
    """Mean relative movement of the preserved rows."""
    t, p = matrix(problem), problem.preserve
    return ((p @ t.T - p).norm(dim=1) / p.norm(dim=1)).mean().item()


def test_drift_falls_to_nothing_with_weight_or_ridge_while_rows_are_independent():
    c, a, p = draw(1, 5, D), draw(2, 5, D), draw(3, 20, D)
    by_weight = [drift(EditProblem(c, a, p, 0.5, preserve_weights=torch.full((20,), w))) for w in (1.0, 1e2, 1e4, 1e6)]
    by_ridge = [drift(EditProblem(c, a, p, ridge)) for ridge in (1.0, 1e-1, 1e-2, 1e-3)]
    for falling in (by_weight, by_ridge):
        assert all(later < earlier / 5 for earlier, later in itertools.pairwise(falling))
    assert by_weight[-1] < 1e-6


def test_drift_reaches_a_plateau_when_there_are_more_rows_than_dimensions():
    c, a, p = draw(1, 10, D), draw(2, 10, D), draw(3, 100, D)
    low, lower = (drift(EditProblem(c, a, p, ridge)) for ridge in (1e-3, 1e-4))
    assert lower > 0.02
    assert lower == pytest.approx(low, rel=1e-2)


@pytest.mark.parametrize(("m", "p", "d"), [(1, 0, 8), (3, 4, 16), (6, 40, 64), (30, 33, 64)])
def test_primal_and_dual_agree(m, p, d):
    """Fewer rows than dimensions are solved in the dual; unrelated zero columns make the same problem wide."""
    problem = random_problem(m, p, d)
    omega, omega_preserve = problem.erase_weights, problem.preserve_weights
    gram = 0.5 * torch.eye(d, dtype=torch.float64)
    gram += (problem.erase.T * omega) @ problem.erase + (problem.preserve.T * omega_preserve) @ problem.preserve
    down = (omega[:, None] * problem.erase) @ torch.linalg.inv(gram)
    expected = torch.eye(d, dtype=torch.float64) + (problem.anchors - problem.erase).T @ down
    found = matrix(problem)
    assert m + p < d
    assert (found - expected).norm() / (expected - torch.eye(d)).norm() < 1e-10
    assert (problem._solve_primal() - problem._solve_dual()).norm() / problem._solve_dual().norm() < 1e-10


@pytest.mark.parametrize(("m", "p"), [(6, 9), (30, 60)])
def test_any_order_of_rows_gives_the_bitwise_same_map(m, p):
    problem = random_problem(m, p)
    groups = torch.arange(m) % 4
    solved = EditProblem(**fields(problem), groups=groups)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        i, j = torch.randperm(m, generator=generator), torch.randperm(p, generator=generator)
        other = EditProblem(
            problem.erase[i],
            problem.anchors[i],
            problem.preserve[j],
            0.5,
            problem.erase_weights[i],
            problem.preserve_weights[j],
            groups[i],
        )
        assert bitwise_equal(other, solved)
        assert torch.equal(other.rows.groups, solved.rows.groups)


def fields(problem):
    names = ("erase", "anchors", "preserve", "ridge", "erase_weights", "preserve_weights")
    return {name: getattr(problem, name) for name in names}


def bitwise_equal(one, other):
    a, b = one.solve().factors[0], other.solve().factors[0]
    return torch.equal(a.up, b.up) and torch.equal(a.down, b.down)


def test_equal_rows_add_their_weights():
    c, a, p = draw(1, 3, D), draw(2, 3, D), draw(3, 4, D)
    twice = EditProblem(
        torch.cat([c, c[:1], c[:1]]),
        torch.cat([a, a[:1], a[:1]]),
        torch.cat([p, p[2:3]]),
        erase_weights=torch.tensor([1.0, 2.0, 3.0, 0.25, 0.5]),
        preserve_weights=torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0]),
    )
    once = EditProblem(
        c,
        a,
        p,
        erase_weights=torch.tensor([1.75, 2.0, 3.0]),
        preserve_weights=torch.tensor([1.0, 1.0, 3.0, 1.0]),
    )
    assert twice.factors()[1].shape == (3, D)
    assert bitwise_equal(twice, once)


def test_adding_the_weights_of_equal_rows_does_not_depend_on_their_order():
    c, a = draw(1, 1, D).expand(6, D), draw(2, 1, D).expand(6, D)
    weights = torch.tensor([0.1, 0.2, 0.3, 1e-8, 1e8, 0.7], dtype=torch.float64)
    orders = [torch.randperm(6, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    sums = {float(sum(weights[i].tolist())) for i in orders}
    assert len(sums) > 1, "the weights must be such that the order matters"
    solved = EditProblem(c, a, c, erase_weights=weights, preserve_weights=weights)
    for order in orders:
        other = EditProblem(c, a, c, erase_weights=weights[order], preserve_weights=weights[order])
        assert torch.equal(other.rows.omega, solved.rows.omega)
        assert torch.equal(other.rows.omega_preserve, solved.rows.omega_preserve)
        assert bitwise_equal(other, solved)


def test_equal_concept_rows_with_different_anchors_stay_two_terms():
    c, a = draw(1, 1, D), draw(2, 2, D)
    problem = EditProblem(torch.cat([c, c]), a, ridge=1e-6)
    assert problem.factors()[1].shape == (2, D)
    torch.testing.assert_close(matrix(problem) @ c[0], a.mean(0), rtol=1e-5, atol=1e-5)


def test_rows_of_weight_zero_count_for_nothing():
    c, a, p = draw(1, 3, D), draw(2, 3, D), draw(3, 2, D)
    with_zeros = EditProblem(
        c, a, p, erase_weights=torch.tensor([1.0, 0.0, 2.0]), preserve_weights=torch.tensor([0.0, 1.0])
    )
    without = EditProblem(c[[0, 2]], a[[0, 2]], p[1:], erase_weights=torch.tensor([1.0, 2.0]))
    assert bitwise_equal(with_zeros, without)
    nothing = EditProblem(c, a, p, erase_weights=torch.zeros(3))
    assert nothing.solve().rank == 0
    rows = draw(5, 4, D).float()
    assert torch.equal(nothing.solve()(rows), rows)


def test_a_ridge_of_zero_is_raised_to_the_floor():
    c, a = draw(1, 5, D), draw(2, 5, D)
    problem = EditProblem(c, a, ridge=0.0, erase_weights=torch.full((5,), 2.0))
    mean_eigenvalue = 2.0 * sum(float(row @ row) for row in c) / D
    assert problem.effective_ridge == pytest.approx(RIDGE_FLOOR * mean_eigenvalue, rel=1e-12)
    assert (matrix(problem) @ c.T - a.T).norm() / a.norm() < 1e-4
    assert EditProblem(c, a, ridge=0.25).effective_ridge == 0.25


def test_dependent_rows_without_ridge_still_solve():
    c = draw(1, 3, D)
    problem = EditProblem(torch.cat([c, c[:1] * (1 + 1e-12)]), draw(2, 4, D), ridge=0.0)
    assert torch.isfinite(matrix(problem)).all()


def test_all_zero_rows_change_nothing():
    problem = EditProblem(torch.zeros(2, D), draw(1, 2, D), ridge=0.0)
    rows = draw(2, 3, D)
    assert torch.equal(rows @ matrix(problem).T, rows)


@pytest.mark.parametrize("p", [0, 100])
def test_anchors_equal_to_concepts_change_exactly_nothing(p):
    c = draw(1, 10, D)
    up, down = EditProblem(c, c.clone(), draw(2, p, D)).factors()
    assert torch.count_nonzero(up @ down) == 0


@pytest.mark.parametrize("m", [1, 4, 60])
def test_rank_is_at_most_the_number_of_rows_and_factors_are_the_matrix(m):
    problem = random_problem(m, 10)
    emap = problem.solve()
    assert emap.rank == m
    change = emap.matrix() - torch.eye(D, dtype=torch.float64)
    assert torch.linalg.matrix_rank(change, rtol=1e-6) <= min(m, D)
    weight = draw(9, 40, D)
    exact = weight @ (matrix(problem) - torch.eye(D, dtype=torch.float64))
    factor = emap.factors[0]
    product = (weight.float() @ factor.up) @ factor.down
    assert factor.up.dtype == factor.down.dtype == torch.float32
    assert (product - exact).norm() / exact.norm() < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["erase", "anchors", "preserve", "erase_weights", "preserve_weights"])
def test_nan_and_infinite_input_is_refused_by_name(name, value):
    arguments = fields(random_problem())
    arguments[name] = arguments[name].clone()
    arguments[name].view(-1)[3] = value
    with pytest.raises(IllConditioned, match=name.replace("_", " ")):
        EditProblem(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": draw(0, 4, D)}, "one shape"),
        ({"anchors": draw(0, 5, D + 1)}, "one shape"),
        ({"erase": draw(0, 0, D), "anchors": draw(0, 0, D)}, "m >= 1"),
        ({"erase": draw(0, D), "anchors": draw(0, D)}, "one shape"),
        ({"preserve": draw(0, 7, D + 2)}, "like the rows to erase"),
        ({"preserve": draw(0, D)}, "like the rows to erase"),
        ({"erase_weights": draw(0, 4).abs()}, "weights"),
        ({"preserve_weights": draw(0, 3).abs()}, "weights"),
        ({"preserve": None}, "weights"),
        ({"groups": torch.zeros(2)}, "groups"),
        ({"ridge": -0.1}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"ridge": float("inf")}, "ridge"),
        ({"erase_weights": -torch.ones(5)}, "0 or more"),
        ({"preserve_weights": -torch.ones(7)}, "0 or more"),
    ],
)
def test_wrong_shapes_and_ranges_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        EditProblem(**{**fields(random_problem()), **changes})


def test_half_precision_rows_are_solved_as_exactly_as_doubles():
    exact = random_problem(10, 30)
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 5e-2)):
        rounded = [getattr(exact, name).to(dtype) for name in ("erase", "anchors", "preserve")]
        weights = exact.erase_weights, exact.preserve_weights
        found = matrix(EditProblem(*rounded, 0.5, *weights))
        doubled = matrix(EditProblem(*(rows.double() for rows in rounded), 0.5, *weights))
        assert torch.equal(found, doubled)
        assert 0 < (found - matrix(exact)).norm() / matrix(exact).norm() < error


def test_a_hard_spectrum_stays_exact_where_single_precision_is_lost():
    """Fifty rows along one direction and a tiny ridge: cond(G) is 1e7, and float32 inverts garbage."""
    shared = draw(1, 1, D) * 3
    c, a = shared + 0.01 * draw(2, 50, D), draw(3, 50, D)
    problem = EditProblem(c, a, ridge=1e-3)
    assert problem.effective_ridge == 1e-3
    down = c @ torch.linalg.inv(c.T @ c + 1e-3 * torch.eye(D, dtype=torch.float64))
    expected = (a - c).T @ down
    found = matrix(problem) - torch.eye(D, dtype=torch.float64)
    assert (found - expected).norm() / expected.norm() < 1e-7
    gram = c.T @ c + 1e-3 * torch.eye(D, dtype=torch.float64)
    assert torch.linalg.cond(gram) > 1e7
    single = c.float() @ torch.linalg.inv(c.float().T @ c.float() + 1e-3 * torch.eye(D))
    assert ((a - c).T @ single.double() - expected).norm() / expected.norm() > 1e-3


def test_diagnostics_say_what_the_map_does():
    problem = random_problem(4, 10)
    up, down = problem.factors()
    numbers = diagnose(problem, down, up)
    t = matrix(problem)
    change = t - torch.eye(D, dtype=torch.float64)
    c, a, p = problem.erase, problem.anchors, problem.preserve
    moved = (p @ t.T - p).norm(dim=1) / p.norm(dim=1)
    gram = 0.5 * torch.eye(D, dtype=torch.float64)
    gram += (c.T * problem.erase_weights) @ c + (p.T * problem.preserve_weights) @ p
    values = torch.linalg.svdvals(change)[:4]
    share = values / values.sum()
    assert numbers["residual"] == pytest.approx(
        ((c @ t.T - a).norm(dim=1) / (c - a).norm(dim=1)).mean().item(), rel=1e-5
    )
    assert numbers["drift"] == pytest.approx(moved.mean().item(), rel=1e-5)
    assert numbers["drift_worst"] == pytest.approx(moved.max().item(), rel=1e-5)
    assert numbers["norm"] == pytest.approx(values[0].item(), rel=1e-5)
    assert numbers["effective_rank"] == pytest.approx(torch.exp(-(share * share.log()).sum()).item(), rel=1e-5)
    assert numbers["condition"] == pytest.approx(torch.linalg.eigvalsh(gram).max().item() / 0.5, rel=0.05)
    assert numbers["null_space"] == D - 14
    assert (numbers["rows_erased"], numbers["rows_preserved"]) == (4, 10)


def test_diagnostics_of_nothing_are_zeros():
    c = draw(1, 3, D)
    for problem in (EditProblem(c, c.clone()), EditProblem(c, draw(2, 3, D), erase_weights=torch.zeros(3))):
        up, down = problem.factors()
        numbers = diagnose(problem, down, up)
        assert (numbers["norm"], numbers["residual"], numbers["drift"], numbers["effective_rank"]) == (0, 0, 0, 0)

"""Joint solves: exactly what one solve over everything gives, in any order, from rows or from recipes."""

import dataclasses
import json

import pytest
import torch
from apply_support import picture

from erasure_core import BadInput, Membrane, UnknownFormat, apply, erase, load, save
from erasure_core.join import erase_again, join, joined, subtract
from erasure_core.joint import conflicts, joint_maps, united
from erasure_core.prepared import Prepared
from erasure_core.solver import EditProblem
from erasure_core.streaming import REFACTOR, Stream

KEPT = "\n+ star\n+ moon\n+ red\n+ blue"


@pytest.fixture(scope="module")
def pair(demo):
    return [erase(demo, text + KEPT, exact=True) for text in ("circle -> square", "heart -> cross")]


@pytest.fixture(scope="module")
def at_once(demo):
    return erase(demo, "circle -> square\nheart -> cross" + KEPT, exact=True)


def relative(found, expected):
    """Difference of two maps T, relative to the change T - I."""
    return float((found - expected).norm() / (expected - torch.eye(len(expected)).double()).norm())


def random_problem(seed, m=4, p=12, d=24, groups=None):
    g = torch.Generator().manual_seed(seed)
    c, a, k = (torch.randn(n, d, generator=g) for n in (m, m, p))
    return EditProblem(c, a, k, 0.3, torch.rand(m, generator=g) + 0.5, torch.rand(p, generator=g) + 0.5, groups)


def test_joining_equals_erasing_everything_at_once(pair, at_once):
    expected = at_once.maps["clip_l"].matrix()
    for order in (pair, pair[::-1]):
        together = join([(erasure, 1.0) for erasure in order])
        assert relative(together.maps["clip_l"].matrix(), expected) < 1e-6
        assert together.recipe["joint"] is True
    apart = sum(e.maps["clip_l"].matrix() - torch.eye(64).double() for e in pair) + torch.eye(64).double()
    assert relative(apart, expected) > 1e-2  # summing is something else


def test_rows_in_a_file_and_a_recipe_with_the_model_give_the_same(demo, pair, tmp_path):
    expected = [e.maps["clip_l"].matrix() for e in joined(pair)]
    with_rows = [load(save(e, tmp_path / f"rows{i}", statistics=True)) for i, e in enumerate(pair)]
    bare = [load(save(e, tmp_path / f"bare{i}")) for i, e in enumerate(pair)]
    for found in (joined(with_rows), joined(bare, demo), joined([with_rows[0], bare[1]], demo)):
        for one, wanted in zip(found, expected, strict=True):
            assert relative(one.maps["clip_l"].matrix(), wanted) < 1e-6
    assert joined(bare) is None  # no rows, no model: they can only be summed
    assert "joint" not in join([(e, 1.0) for e in bare]).recipe


def test_a_joined_file_is_solved_again_as_joined(demo, pair, tmp_path):
    made = join([(pair[0], 1.0), (pair[1], 0.5)])
    read = load(save(made, tmp_path / "both"))
    again = erase_again(demo, json.loads(json.dumps(read.recipe)))
    assert relative(again.maps["clip_l"].matrix(), made.maps["clip_l"].matrix()) < 1e-6


def test_a_closed_membrane_is_preserved_by_the_open_one(demo, pair):
    """The gain of heart is 0, yet its rows are better kept than if circle had been solved alone."""
    rows = pair[1].statistics["clip_l"].rows.erase

    def moved(erasure):
        t = erasure.maps["clip_l"].matrix()
        return float(((rows @ t.T) - rows).norm() / rows.norm())

    assert moved(joined(pair)[0]) < 0.5 * moved(pair[0])


def test_membranes_in_one_list_are_joined_and_the_receipt_says_so(demo, pair, at_once):
    prompts = ["a red circle", "a blue heart", "a green star"]
    with apply(demo, Membrane(at_once, gate="always")):
        expected = picture(demo, prompts)
    with apply(demo, [Membrane(erasure, gate="always") for erasure in pair]) as applied:
        assert torch.allclose(picture(demo, prompts), expected, atol=1e-4)
        assert applied.receipt.count("solved jointly with the others on the same text") == 2
    assert not torch.equal(picture(demo, prompts), expected)


def test_taking_a_concept_out_leaves_no_trace(demo, pair, at_once, tmp_path):
    expected = pair[0].maps["clip_l"].matrix()
    left = subtract(at_once, ["heart"])
    whole, own = at_once.statistics["clip_l"], pair[0].statistics["clip_l"]
    same_ridge = dataclasses.replace(own, ridge=whole.ridge).solve().matrix()
    assert relative(left.maps["clip_l"].matrix(), same_ridge) < 1e-6
    assert relative(left.maps["clip_l"].matrix(), expected) < 1e-2
    assert [c["target"] for c in left.recipe["concepts"]] == ["circle"] and left.gate["phrases"] == ["circle"]
    bare = load(save(at_once, tmp_path / "bare"))
    by_recipe = subtract(bare, ["heart"], demo)
    assert relative(by_recipe.maps["clip_l"].matrix(), expected) < 1e-6
    with pytest.raises(BadInput, match=r"does not erase 'ring'\. It erases circle, heart"):
        subtract(at_once, ["ring"])
    with pytest.raises(BadInput, match="Nothing would be left"):
        subtract(at_once, ["circle", "heart"])
    with pytest.raises(BadInput, match="Give the model"):
        subtract(bare, ["heart"])


def test_joined_problems_are_independent_of_order_and_of_doubles():
    problems = [random_problem(seed) for seed in range(4)]
    whole = united(problems).solve().matrix()
    shuffled = united([problems[i] for i in (2, 0, 3, 1)]).solve().matrix()
    doubled = united([*problems, problems[0]]).solve().matrix()
    assert relative(shuffled, whole) < 1e-6
    assert relative(doubled, whole) < 0.05  # the ridge is a mean and moves a little, nothing counts twice
    parts = sum(m.matrix() - torch.eye(24).double() for m in joint_maps(problems))
    assert relative(parts + torch.eye(24).double(), whole) < 1e-6


def test_what_one_preserves_and_another_erases_is_erased(demo):
    """Each alone keeps the other's concept, bare and beside a colour; in one list both go, as if erased at once."""
    lone = [
        erase(demo, "circle -> square\n+ star\n+ red star\n+ moon", exact=True),
        erase(demo, "star -> heart\n+ circle\n+ moon\n+ blue circle", exact=True),
    ]
    at_once = erase(demo, "circle -> square\nstar -> heart\n+ moon", exact=True).maps["clip_l"].matrix()
    for order in (lone, lone[::-1]):
        together = join([(erasure, 1.0) for erasure in order], demo)
        assert relative(together.maps["clip_l"].matrix(), at_once) < 1e-6
        again = erase_again(demo, json.loads(json.dumps(together.recipe)))
        assert relative(again.maps["clip_l"].matrix(), at_once) < 1e-6
    with apply(demo, [Membrane(erasure, gate="always") for erasure in lone]) as applied:
        notes = [" ".join(receipt.notes) for receipt in applied.receipts]
    assert [note.split(": ")[1] for note in notes] == ["red star, star", "blue circle, circle"]


def test_what_its_own_eraser_preserves_stays_preserved_in_a_list(demo):
    lone = [
        erase(demo, "circle -> square\n+ red star\n+ star", exact=True),
        erase(demo, "star -> heart\n+ red star", exact=True),
    ]
    expected = erase(demo, "circle -> square\nstar -> heart\n+ red star", exact=True).maps["clip_l"].matrix()
    found = join([(erasure, 1.0) for erasure in lone], demo).maps["clip_l"].matrix()
    assert relative(found, expected) < 1e-6


def test_two_anchors_for_one_direction_are_reported(demo, pair):
    assert conflicts([e.statistics["clip_l"] for e in pair]) == []
    other = erase(demo, "disc -> star", exact=True)
    (found,) = conflicts([e.statistics["clip_l"] for e in (*pair, other)])
    assert (found.first, found.second) == (0, 2)
    assert found.cosine > 0.9 and found.missed > 0.25


@pytest.mark.parametrize("m", [1, 3, 30])
def test_an_update_of_what_is_prepared_equals_the_whole_solve(m):
    problem = random_problem(7, m=m)
    prepared = Prepared(problem.preserve, problem.preserve_weights, problem.ridge)
    found = prepared.solve(problem.erase, problem.anchors, problem.erase_weights).matrix()
    assert relative(found, problem.solve().matrix()) < 1e-5
    with pytest.raises(BadInput, match="must be above 0"):
        Prepared(problem.preserve, problem.preserve_weights, 0.0)


def test_what_many_erasures_keep_counts_once_with_its_largest_weight():
    problems = [random_problem(seed) for seed in range(4)]
    shared = random_problem(50).preserve
    given = [
        dataclasses.replace(p, preserve=torch.cat([shared, p.preserve[:own]]), preserve_weights=w)
        for p, own, w in zip(
            problems,
            (0, 0, 3, 0),
            (torch.ones(12), torch.linspace(0.5, 2, 12), torch.ones(15), torch.ones(12)),
            strict=True,
        )
    ]
    whole = united(given)
    expected = {tuple(row.tolist()): 0.0 for problem in given for row in problem.preserve}
    for problem in given:
        for row, weight in zip(problem.preserve, problem.preserve_weights.tolist(), strict=True):
            key = tuple(row.tolist())
            expected[key] = max(expected[key], weight)
    found = {tuple(row.tolist()): w for row, w in zip(whole.preserve, whole.preserve_weights.tolist(), strict=True)}
    assert len(found) == 15 and found == pytest.approx(expected)


def test_conflicts_are_those_of_a_loop_over_all_pairs(monkeypatch):
    problems = [random_problem(seed, p=0, d=8) for seed in range(12)]
    for first, second in ((0, 5), (3, 4), (7, 11)):
        problems[second].erase[:2] = 1.1 * problems[first].erase[1:3]
    whole = united(problems)
    c, a, w, owner = whole.erase.double(), whole.anchors.double(), whole.erase_weights.double(), whole.groups
    gram = whole.ridge * torch.eye(8).double() + (c * w[:, None]).T @ c
    reached = c + c @ torch.linalg.solve(gram, (c * w[:, None]).T @ (a - c))
    missed = (reached - a).norm(dim=1) / (c - a).norm(dim=1)
    expected = {}
    for i in range(len(c)):
        for j in range(len(c)):
            cosine = c[i] @ c[j] / (c[i].norm() * c[j].norm())
            apart = (a[i] - a[j]).norm() > 0.5 * max(a[i].norm(), a[j].norm())
            worse = max(missed[i], missed[j]).item()
            if owner[i] < owner[j] and cosine > 0.9 and apart and worse > 0.25:
                key = (int(owner[i]), int(owner[j]))
                expected[key] = max(expected.get(key, 0.0), worse)
    assert len(expected) >= 3
    for part in (1024, 5):
        monkeypatch.setattr("erasure_core.joint._PART", part)
        found = {(conflict.first, conflict.second): conflict.missed for conflict in conflicts(problems)}
        assert found == pytest.approx(expected, rel=1e-6)


def test_streaming_equals_the_batch_in_any_order_and_back():
    problems = [random_problem(seed, p=0) for seed in range(REFACTOR + 10)]  # so many updates: solved afresh, too
    kept = random_problem(99)
    weights = kept.preserve_weights
    results = []
    for order in (problems, problems[::-1]):
        stream = Stream(24, 0.3)
        stream.add(kept.preserve, kept.preserve, weights)
        for problem in order:
            stream.add(problem.erase, problem.anchors, problem.erase_weights)
        results.append(stream.matrix)
    rows = [torch.cat([getattr(p, name) for p in problems]) for name in ("erase", "anchors", "erase_weights")]
    batch = EditProblem(rows[0], rows[1], kept.preserve, 0.3, rows[2], weights)
    down, up = batch.factors()[1], batch.factors()[0]
    expected = torch.eye(24).double() + up @ down
    for found in results:
        assert relative(found, expected) < 1e-10
    for problem in problems[3:]:
        stream.remove(problem.erase, problem.anchors, problem.erase_weights)
    small = Stream(24, 0.3)
    small.add(kept.preserve, kept.preserve, weights)
    for problem in problems[:3]:
        small.add(problem.erase, problem.anchors, problem.erase_weights)
    assert relative(stream.matrix, small.matrix) < 1e-9
    assert len(stream) == len(small)
    with pytest.raises(BadInput, match="was never added"):
        stream.remove(problems[9].erase, problems[9].anchors, problems[9].erase_weights)


def test_damaged_rows_in_a_file_are_named(pair, tmp_path):
    from safetensors.torch import load_file, save_file

    path = save(pair[0], tmp_path / "x", statistics=True)
    from erasure_core.formats.files import read_header

    metadata = dict(read_header(path).metadata)
    for change in ({"rows.clip_l.anchors": torch.ones(2, 64)}, {"rows.clip_l.strange": torch.ones(1)}):
        save_file(load_file(path) | change, tmp_path / "bad.safetensors", metadata)
        with pytest.raises(UnknownFormat, match="is damaged"):
            load(tmp_path / "bad.safetensors")
    silent = dataclasses.replace(pair[0], statistics={})
    with pytest.raises(BadInput, match="has no rows to store"):
        save(silent, tmp_path / "y", statistics=True)


def test_closed_directions_survive_a_list(demo, pair):
    """A map followed by a projector is not the solution of its rows, so it is summed and never solved afresh."""
    closed = erase(demo, "circle -> square" + KEPT, singular=2)
    assert joined([closed, pair[1]], demo) is None
    alone = torch.linalg.svdvals(closed.maps["clip_l"].matrix())
    assert (alone < 1e-5).sum() == 2
    with apply(demo, [Membrane(closed, gate="always"), Membrane(pair[1], gate="always")]) as applied:
        assert applied.receipt.count("summed, not joint") == 2
    added = join([(closed, 1.0), (pair[1], 1.0)], demo).maps["clip_l"].matrix()
    apart = closed.maps["clip_l"].matrix() + pair[1].maps["clip_l"].matrix() - torch.eye(64).double()
    assert relative(added, apart) < 1e-6

"""Likeness: calibrated cosines, against a loop over prompts and phrases."""

import dataclasses

import pytest
import torch

from erasure_core import likeness as likeness_module
from erasure_core.gates import Combined, PromptRow, make_gate, words_of
from erasure_core.likeness import CLOSED_BELOW, Likeness, Subject, measure, neutral_bank

SUBJECTS = [Subject(("circle", "disc")), Subject(("heart",), "object", ("star",)), Subject(("moon",), "character")]


@pytest.fixture(scope="module")
def likeness(demo):
    return measure(demo, SUBJECTS)


def rows_of(demo, prompt):
    return demo.encode([prompt]).hidden[0]


def by_hand(index, rows):
    """Scores by one cosine after the other."""
    best = [[-1.0, -1.0] for _ in range(len(index))]
    for row in rows.double():
        for which, (units, owners) in enumerate(((index.references, index.owners), (index.others, index.other_owners))):
            for unit, owner in zip(units, owners.tolist(), strict=True):
                cosine = float(torch.nn.functional.cosine_similarity(row - index.centre, unit, dim=0))
                best[owner][which] = max(best[owner][which], cosine)
    return torch.tensor([own - max(0.0, other - own) for own, other in best], dtype=torch.float64)


def test_scores_equal_a_loop(demo, likeness):
    for prompt in ("a red circle", "a star", ""):
        rows = rows_of(demo, prompt)
        assert torch.allclose(likeness.scores(rows), by_hand(likeness, rows), atol=1e-9)


def test_the_floor_is_the_percentile_of_the_bank(demo, likeness):
    bank = neutral_bank(demo)
    assert 180 <= len(bank.prompts) <= 220
    others = [i for i, p in enumerate(bank.prompts) if not {"heart", "hearts", "star", "stars"} & set(p.split())]
    assert len(others) < len(bank.prompts)
    scores = torch.stack([likeness.scores(bank.rows[bank.owners == i])[1] for i in others])
    assert torch.allclose(likeness.floors[1], torch.quantile(scores, 0.995), atol=1e-9)


def test_own_sentences_open_fully_and_neighbours_do_not(demo, likeness):
    for prompt, wanted in (("a photo of a circle", 0), ("the disc", 0), ("a heart", 1), ("a picture of moon", 2)):
        gains = likeness(rows_of(demo, prompt))
        assert gains[wanted] > 0.99
        assert all(gains[i] == 0 for i in range(3) if i != wanted)
    assert likeness(rows_of(demo, "a star"))[1] == 0


def test_a_declared_neighbour_lowers_and_never_raises(demo, likeness):
    alone = dataclasses.replace(likeness, others=likeness.others[:0], other_owners=likeness.other_owners[:0])
    for prompt in ("a star", "a heart", "a heart and a star", "a ring"):
        rows = rows_of(demo, prompt)
        assert (likeness.scores(rows) <= alone.scores(rows)).all()
    assert likeness.scores(rows_of(demo, "a star"))[1] < alone.scores(rows_of(demo, "a star"))[1]


def test_gains_run_from_floor_to_ceiling_and_sensitivity_moves_the_floor():
    eye = torch.eye(2, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.long)
    one = torch.ones(1, dtype=torch.float64)
    index = Likeness(0 * eye[0], eye[:1], torch.tensor([0]), eye[:0], none, 0.4 * one, 0.8 * one)

    def gain(cosine, sensitivity=0.5):
        row = torch.tensor([[cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
        return float(index(row, sensitivity)[0])

    assert [round(gain(c), 9) for c in (0.3, 0.4, 0.6, 0.8, 1.0)] == [0, 0, 0.5, 1, 1]
    assert gain(0.4 + 0.4 * CLOSED_BELOW * 0.9) == 0
    assert gain(0.79, 0.0) == 0 and gain(0.8, 0.0) == pytest.approx(1)
    assert gain(0.2, 1.0) == pytest.approx(0.25)
    steps = [gain(0.55, s / 10) for s in range(11)]
    assert steps == sorted(steps)


def test_batches_equal_the_whole(demo, monkeypatch, likeness):
    monkeypatch.setattr("erasure_core.likeness._AT_ONCE", 2)
    seen = []
    parts = measure(demo, SUBJECTS, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    for name in ("references", "owners", "others", "other_owners", "floors", "ceilings"):
        assert torch.allclose(getattr(parts, name).double(), getattr(likeness, name).double(), atol=1e-9)


@pytest.mark.parametrize("kind", ["either", "both"])
def test_combined_gates_are_the_larger_and_the_product(demo, kind):
    words, like = (make_gate(k, ["circle"], [], demo) for k in ("words", "likeness"))
    combined = make_gate(kind, ["circle"], [], demo)
    assert isinstance(combined, Combined)
    for prompt in ("a red circle", "a ring", "a blue star", "circles"):
        encoded = demo.encode([prompt])
        row = PromptRow(encoded.hidden[0], words_of(encoded)[0])
        w, s = words(row).gain, like(row).gain
        assert combined(row).gain == pytest.approx(max(w, s) if kind == "either" else w * s)
        blind = PromptRow(encoded.hidden[0])
        assert combined(blind) == like(blind)


def crowd(width=96, subjects=500, each=6, seed=4):
    """An index of thousands of vectors, as one is read from a file, and rows that lie near a few of them."""
    generator = torch.Generator().manual_seed(seed)
    units = torch.nn.functional.normalize(torch.randn(subjects * each, width, generator=generator), dim=1)
    others = torch.nn.functional.normalize(torch.randn(700, width, generator=generator), dim=1)
    owners = torch.arange(subjects).repeat_interleave(each)
    floors = 0.45 + 0.2 * torch.rand(subjects, generator=generator)
    centre = 0.1 * torch.randn(width, generator=generator)
    apart = torch.arange(700) % subjects
    index = Likeness(centre, units, owners, others, apart, floors, floors + 0.3)
    near = torch.cat([units[::37], others[::51]])
    noise = torch.randn(len(near), width, generator=generator) / width**0.5
    mixed = torch.linspace(0.3, 2.0, len(near))[:, None] * noise
    return index, centre + 7 * (near + mixed)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("sensitivity", [0.2, 0.5, 0.9])
def test_a_first_look_at_thousands_of_vectors_changes_no_gain(monkeypatch, fast, sensitivity):
    monkeypatch.setattr(likeness_module, "_bfloat_is_fast", lambda: fast)
    index, rows = crowd()
    own, other = torch.full((500,), -1.0).double(), torch.full((500,), -1.0).double()
    for row in torch.nn.functional.normalize((rows - index.centre).double(), dim=1):
        for cosines, owners, best in (
            (index.references.double() @ row, index.owners, own),
            (index.others.double() @ row, index.other_owners, other),
        ):
            best.scatter_reduce_(0, owners, cosines, "amax")
    score = own - (other - own).clamp_min(0)
    expected = ((score - index.ceilings) / (2 * (index.ceilings - index.floors) * sensitivity) + 1).clamp(0, 1)
    expected[expected < CLOSED_BELOW] = 0
    gains = index(rows, sensitivity)
    assert torch.allclose(gains.double(), expected, atol=1e-5)
    assert torch.equal(gains > 0, expected > 0)
    assert 10 < int((gains > 0).sum()) < 250 and int(((gains > 0) & (gains < 1)).sum()) > 5
    if fast:
        room = 2 * (index.ceilings - index.floors) * sensitivity
        looked = index._near(rows, index.ceilings - (1 - CLOSED_BELOW) * room)
        assert int((gains > 0).sum()) <= len(looked) < 300

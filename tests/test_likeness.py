"""Likeness: calibrated cosines, against a loop over prompts and phrases."""

import dataclasses

import pytest
import torch

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

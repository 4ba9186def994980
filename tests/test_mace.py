"""MACE's refinement against the published loop, and what it promises."""

import mace_reference as published
import pytest
import torch
from closed_form_support import assert_edited, single_precision_tolerance

from erasure_core import BadInput, erase
from erasure_core.closed_form.gram import caption_gram
from erasure_core.solver import EditProblem
from erasure_core.templates import contexts


def rows_of(plain, texts):
    return torch.cat([plain.rows(text) for text in texts]).double() if texts else torch.zeros(0, 64).double()


@pytest.mark.parametrize(
    ("text", "pairs", "kind", "lamb", "scale"),
    [
        ("circle -> square", [("circle", "square")], "object", 1e3, 0.0),
        ("circle -> polka dot\nheart -> star", [("circle", "polka dot"), ("heart", "star")], "object", 1e3, 0.0),
        ("style: striped -> dotted", [("striped", "dotted")], "style", None, 1e-8 * 8e4),
        ("person: circle -> a big square", [("circle", "a big square")], "person", None, 1e-8 * 8e3),
    ],
)
def test_official_settings_as_published(demo, plain, text, pairs, kind, lamb, scale):
    kept = ["moon", "a red ring"]
    erasure = erase(demo, text, "mace", preserve=kept, parity=True, exact=True)
    sequences = [pair for old, new in pairs for pair in published.pairs(plain, old, new, contexts(kind))]
    ridge = erasure.recipe["ridge"]  # the published one, raised from 0 so that the sums can be inverted
    assert lamb is None or ridge == lamb
    assert_edited(erasure, demo, lambda w: published.refine(w, sequences, rows_of(plain, kept), ridge, scale))


def test_everything_set(demo, plain):
    options = {"lamb": 0.5, "preserve_scale": 0.2, "preserve_weight": 3}
    erasure = erase(demo, "circle -> square", "mace", preserve=["moon"], parity=True, exact=True, **options)
    sequences = published.pairs(plain, "circle", "square", contexts("object"))
    assert_edited(erasure, demo, lambda w: published.refine(w, sequences, rows_of(plain, ["moon"]), 0.5, 0.04 * 3))


def test_published_single_precision(demo, plain):
    erasure = erase(demo, "circle -> square", "mace", parity=True, exact=True, lamb=10)
    sequences = published.pairs(plain, "circle", "square", contexts("object"))
    allowed = single_precision_tolerance(torch.cat([c for c, _ in sequences]), 10)
    kept = rows_of(plain, [])
    assert_edited(
        erasure, demo, lambda w: published.refine(w, sequences, kept, 10, 0, torch.float32), tolerance=allowed
    )


def test_the_concepts_own_words_are_not_rows_to_erase(demo, plain):
    """UCE moves the word itself nearly onto the anchor's; MACE leaves most of it and says how much it moved."""
    word, goal = plain.rows("a circle")[2].double(), plain.rows("a square")[2].double()
    left = {}
    for method in ("mace", "uce"):
        erasure = erase(demo, "circle -> square", method, exact=True)
        t = erasure.maps["clip_l"].matrix()
        left[method] = ((t @ word - goal).norm() / (word - goal).norm()).item()
    assert left["uce"] < 0.2 < 0.5 < left["mace"]
    assert 0 < erase(demo, "circle -> square", "mace").diagnostics["clip_l"]["subject_drift"] < 1


def test_one_gram_serves_every_matrix(demo, plain):
    captions = ["a red circle", "moon", "a blue star on green", "moon"]
    gram = caption_gram(demo, "clip_l", captions)
    for width in (3, 5):
        weight = torch.randn(width, 64, dtype=torch.float64)
        first, second = published.caches(weight, rows_of(plain, sorted(set(captions))))
        torch.testing.assert_close(gram, second, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(weight @ gram, first, rtol=1e-5, atol=1e-3)
    gram.zero_()
    assert caption_gram(demo, "clip_l", captions[::-1]).norm() > 0


def test_another_encoder_has_another_gram(demo, fresh):
    before = caption_gram(fresh, "clip_l", ["moon"])
    assert torch.equal(before, caption_gram(demo, "clip_l", ["moon"]))
    with torch.no_grad():
        fresh.pipe.text_encoder.final_layer_norm.weight *= 1.001
    assert not torch.equal(before, caption_gram(fresh, "clip_l", ["moon"]))


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kept", [4, 60])
def test_a_gram_matrix_is_as_good_as_its_rows(kept):
    c, a, p = draw(1, 6, 20), draw(2, 6, 20), draw(3, kept, 20)
    rows = EditProblem(c, a, p, 0.5, preserve_weights=torch.full((kept,), 0.3, dtype=torch.float64))
    gram = EditProblem(c, a, ridge=0.5, preserve_gram=0.3 * p.T @ p)
    torch.testing.assert_close(rows.solved().matrix(), gram.solved().matrix(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(rows.gram(), gram.gram())
    mixed = EditProblem(
        c,
        a,
        p[:2],
        0.5,
        preserve_weights=torch.full((2,), 0.3, dtype=torch.float64),
        preserve_gram=0.3 * p[2:].T @ p[2:],
    )
    torch.testing.assert_close(rows.solved().matrix(), mixed.solved().matrix(), rtol=1e-9, atol=1e-10)


def test_drift_of_what_is_kept_is_known_from_the_gram(demo, plain):
    kept = ["moon", "star", "a red ring"]
    erasure = erase(demo, "circle -> square", "mace", preserve=kept, exact=True)
    change = erasure.maps["clip_l"].matrix() - torch.eye(64)
    rows = rows_of(plain, kept)
    expected = (rows @ change.T).norm() / rows.norm()
    assert erasure.diagnostics["clip_l"]["drift"] == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("gram", [torch.zeros(3, 3), torch.zeros(20)])
def test_a_gram_matrix_of_another_space_is_refused(gram):
    with pytest.raises(BadInput, match=r"must be \[20, 20\]"):
        EditProblem(draw(1, 2, 20), draw(2, 2, 20), preserve_gram=gram)


def test_thirty_surroundings_of_every_kind():
    for kind in ("object", "character", "person", "style", "safety"):
        found = contexts(kind)
        assert len(set(found)) == 30 and found[0] == "{}" and all(t.count("{}") == 1 for t in found)


@pytest.mark.parametrize("options", [{"lamb": -1}, {"preserve_weight": "much"}, {"epochs": 2}])
def test_bad_options(demo, options):
    with pytest.raises(BadInput, match=f"'{next(iter(options))}'"):
        erase(demo, "circle", "mace", **options)

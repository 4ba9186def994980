"""TRCE's first stage against the published loop, its own acceptance tests, and our promises."""

import pytest
import torch
import trce_reference as published
from method_checks import (
    assert_off_is_off_and_on_is_on,
    assert_order_is_nothing_and_the_recipe_everything,
    assert_published,
)

from erasure_core.closed_form import erase, trce
from erasure_core.closed_form.common import Job
from erasure_core.concepts import concept_set
from erasure_core.embeddings import encode_texts, select_pairs
from erasure_core.errors import BadInput
from erasure_core.templates import contexts

EOS = 49407
KEPT = ["a blue star", "moon", "a red polka dot heart", "triangle on a gray background"]


def prompts(plain, row, concept, anchor, kind="object", count=15):
    return [(row(plain, t.replace("{}", concept)), row(plain, t.replace("{}", anchor))) for t in contexts(kind)[:count]]


@pytest.mark.parametrize("kept", [[], KEPT])
def test_the_official_defaults_quirks_included(demo, plain, kept):
    erasure = erase(demo, "circle | spirograph -> square", "trce", preserve=kept, parity=True, exact=True)
    pairs = prompts(plain, published.counted, "circle", "square")
    pairs += prompts(plain, published.counted, "spirograph", "square")
    rows = [row.double() for text in kept for row in plain.rows(text)]
    eta = 1e-4 / max(1, len(kept))
    ridge = published.least_ridge(pairs, rows, eta)
    assert_published(erasure, demo, lambda w: published.edit(w, pairs, rows, eta, ridge))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_everything_set(demo, plain, dtype):
    erasure = erase(
        demo, "style: dotted", "trce", preserve=KEPT, parity=True, exact=True,
        lamb=0.2, preserve_scale=0.5, num_templates=6,
    )  # fmt: skip
    pairs = prompts(plain, published.counted, "dotted", "art", "style", 6)
    pairs = [tuple(row.to(dtype) for row in pair) for pair in pairs]
    rows = [row.to(dtype) for text in KEPT for row in plain.rows(text)]
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    assert_published(erasure, demo, lambda w: published.edit(w.to(dtype), pairs, rows, 0.0625, 0.2), tolerance)


def test_ours_selects_end_of_text_rows_where_the_published_index_slips(demo, plain):
    erasure = erase(demo, "spirograph -> square", "trce", rows="EOT", exact=True, num_templates=2, lamb=1e-3, protect=0)
    source, goal = (plain.rows(text) for text in ("spirograph", "square"))
    assert len(plain.content("spirograph")) > 1, "a word of several tokens"
    end, to = source[len(plain.content("spirograph")) + 1].double(), goal[2].double()
    slipped = source[2].double()
    t = erasure.maps["clip_l"].matrix()
    assert (t @ end - to).norm() < 0.05 * (end - to).norm()
    theirs = erase(demo, "spirograph -> square", "trce", parity=True, num_templates=1).maps["clip_l"].matrix()
    assert (theirs @ slipped - to).norm() < 0.05 * (slipped - to).norm() < (t @ slipped - to).norm()


@pytest.mark.parametrize("selector", ["EOT", "EOT+PADS"])
def test_every_selected_row_is_an_end_of_text(demo, selector):
    concepts = concept_set(["spirograph | sunset/sunrise -> square", "style: 🔴 円 -> art"])
    job = Job.of(demo, concepts, trce.Settings(), False, None)
    pairs = job.pairs(job.anchors(), lambda c: contexts(c.kind)[:15])
    rows = select_pairs(demo, pairs, selector)
    assert {origin.token for origin in rows.origins} == {EOS}
    texts = encode_texts(demo, [pair.prompt for pair in pairs])
    assert all(texts[o.prompt].eos <= o.position for o in rows.origins)
    if selector == "EOT+PADS":
        assert rows.weights.reshape(-1, 2).sum(1).tolist() == [77.0 - texts[p.prompt].eos for p in pairs]


def test_more_sentences_reach_sentences_that_were_not_among_them(demo, plain):
    unseen = [t for t in contexts("object")[20:] if "{}s" not in t]
    left = []
    for count in (1, 4, 15):
        t = erase(demo, "circle -> square", "trce", rows="EOT", num_templates=count).maps["clip_l"].matrix()
        pairs = [tuple(published.end(plain, s.replace("{}", word)) for word in ("circle", "square")) for s in unseen]
        left.append(float(sum((t @ e - a).norm() / (e - a).norm() for e, a in pairs)) / len(pairs))
    assert left[0] > left[1] > left[2]


def test_words_are_left_alone_where_uce_moves_them(demo, plain):
    row, goal = plain.rows("circle")[1].double(), plain.rows("square")[1].double()
    way = (row - goal).norm()
    left = {
        method: ((erase(demo, "circle -> square", method, **options).maps["clip_l"].matrix() @ row - goal).norm() / way)
        for method, options in (("uce", {}), ("trce", {"rows": "EOT"}))
    }
    assert left["uce"] < 0.2 < 0.6 < left["trce"]


@pytest.mark.parametrize("options", [{}, {"parity": True}, {"rows": "EOT+PADS", "lamb": 0.1}])
def test_order_and_recipe(demo, options):
    lines = ["circle -> square", "heart | valentine -> star @ 2", "style: dotted -> art"]
    made = assert_order_is_nothing_and_the_recipe_everything(demo, "trce", lines, KEPT, **options)
    assert made.recipe["selection"] == options.get("rows", "EOT" if "parity" in options else "LAST+EOT")


def test_off_and_on(demo):
    assert_off_is_off_and_on_is_on(demo, erase(demo, "circle -> square", "trce"))


@pytest.mark.parametrize(("name", "value"), [("rows", "LAST"), ("num_templates", 31), ("lamb", -1), ("protect", "x")])
def test_a_bad_option_is_named(demo, name, value):
    with pytest.raises(BadInput, match=f"'{name}'"):
        erase(demo, "circle", "trce", **{name: value})


def test_official_defaults():
    usual = trce.Settings()
    assert (usual.num_templates, usual.preserve_scale, usual.lamb) == (15, None, None)

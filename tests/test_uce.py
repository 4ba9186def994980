"""UCE against the published per-layer loops, with rows picked by the tokenizer alone; and our own promises."""

import json

import pytest
import torch
import uce_reference as published
from closed_form_support import assert_edited, same

from erasure_core.closed_form import erase
from erasure_core.concepts import Concept, ConceptSet
from erasure_core.errors import BadInput, IllConditioned
from erasure_core.solver import EditProblem


@pytest.fixture(params=["bundled", "random"])
def subject(request, demo, plain):
    """A model and its plain encoder: the bundled one, and one whose encoder and matrices are noise."""
    if request.param == "bundled":
        return demo, plain
    from plain_text import PlainText

    model = request.getfixturevalue("fresh")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.pipe.text_encoder.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for name, parameter in model.pipe.unet.named_parameters():
            if ".attn2.to_k." in name or ".attn2.to_v." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, PlainText(model.pipe.tokenizer, model.pipe.text_encoder)


def assert_published(erasure, model, sequences, preserved, **settings):
    assert_edited(erasure, model, lambda weight: published.edit(weight, sequences, preserved, **settings))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("circle", [("circle", "")]),
        ("circle -> square", [("circle", "square")]),
        ("circle | disc -> polka dot square", [("circle", "polka dot square"), ("disc", "polka dot square")]),
        ("polka dot -> plain\ncircle", [("polka dot", "plain"), ("circle", "")]),
        ("style: dotted", [("dotted", "art")]),
    ],
)
def test_2025(subject, text, pairs):
    model, plain = subject
    erasure = erase(model, text, parity=True, exact=True)
    assert_published(erasure, model, published.rows_2025(plain, pairs), [])


def test_2025_with_everything_set(subject):
    model, plain = subject
    pairs = [*published.expand("circle", "square", published.OBJECT)]
    pairs += published.expand("dotted", "art", published.STYLE)
    erasure = erase(
        model,
        ["circle -> square @ 2", "style: dotted"],
        preserve=["star", "a polka dot moon"],
        parity=True,
        exact=True,
        expand_prompts=True,
        erase_scale=0.7,
        preserve_scale=0.3,
        lamb=0.2,
    )
    kept = published.preserved_2025(plain, ["star", "a polka dot moon"])
    scales = [1.4] * 6 + [0.7] * 6
    rows = published.rows_2025(plain, pairs)
    assert_published(erasure, model, rows, kept, lamb=0.2, erase_scale=scales, preserve_scale=0.3)


def test_2025_leaves_an_empty_guide_the_start_token_in_every_sentence(demo, plain):
    erasure = erase(demo, "circle", parity=True, exact=True, expand_prompts=True)
    pairs = published.expand("circle", "", published.OBJECT)
    assert {new for _, new in pairs} == {""}
    assert_published(erasure, demo, published.rows_2025(plain, pairs), [])


@pytest.mark.parametrize("kept", [[], ["star"], ["star", "moon", "a red heart"], [f"star {i}" for i in range(12)]])
def test_2023(subject, kept):
    model, plain = subject
    erasure = erase(model, "circle\npolka dot -> square", preserve=kept, parity=True, exact=True, generation="2023")
    rows = published.rows_2023(plain, [("circle", " "), ("polka dot", "square")])
    scale = max(0.1, 1 / (1 + len(kept)))
    assert_published(erasure, model, rows, published.preserved_2023(plain, kept), preserve_scale=scale)


def test_2023_with_everything_set(demo, plain):
    options = {"expand_prompts": True, "lamb": 0.1, "erase_scale": 0.1, "preserve_scale": 0.1}
    erasure = erase(demo, "circle", preserve=["moon"], parity=True, exact=True, generation="2023", **options)
    rows = published.rows_2023(plain, published.expand("circle", " ", published.OBJECT))
    kept = published.preserved_2023(plain, ["moon"])
    assert_published(erasure, demo, rows, kept, lamb=0.1, erase_scale=0.1, preserve_scale=0.1)


@pytest.mark.parametrize("text", ["circle -> square", "circle", "circle -> square\npolka dot -> plain"])
def test_2023_tensor(subject, text):
    model, plain = subject
    erasure = erase(model, text, parity=True, exact=True, generation="2023", technique="tensor")
    pairs = {"circle": " ", "polka dot": "plain"} if "\n" in text else {"circle": " "}
    pairs |= {"circle": "square"} if "square" in text else {}
    rows = published.rows_2023(plain, list(pairs.items()))
    kept = published.preserved_2023(plain, [])
    assert_published(erasure, model, rows, kept, targets=published.tensor_targets)


def test_tensor_belongs_to_2023(demo):
    with pytest.raises(BadInput, match="generation=2023"):
        erase(demo, "circle", technique="tensor")


@pytest.mark.parametrize(("generation", "guide"), [("2025", ""), ("2023", "")])
def test_moderate_aims_at_the_empty_prompt(demo, plain, generation, guide):
    erasure = erase(demo, "circle -> square", parity=True, exact=True, generation=generation, mode="moderate")
    if generation == "2025":
        assert_published(erasure, demo, published.rows_2025(plain, [("circle", guide)]), [])
    else:
        kept = published.preserved_2023(plain, [])
        assert_published(erasure, demo, published.rows_2023(plain, [("circle", guide)]), kept)


def test_replace_is_erase_with_an_anchor_and_needs_one(demo):
    assert same(erase(demo, "circle -> square", mode="replace"), erase(demo, "circle -> square"))
    with pytest.raises(BadInput, match="mode=replace needs an anchor for 'circle': write 'circle -> anchor'"):
        erase(demo, "circle", mode="replace")


@pytest.mark.parametrize("options", [{}, {"parity": True}, {"generation": "2023"}, {"exact": True}])
def test_any_order_of_concepts_and_phrases_gives_the_bitwise_same_erasure(demo, options):
    lines = ["circle -> square", "heart -> star @ 2", "style: dotted", "cross | plus sign -> ring"]
    kept = ["moon", "triangle"]
    first = erase(demo, lines, preserve=kept, **options)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        other = erase(demo, [lines[i] for i in order], preserve=kept[::-1], **options)
        assert same(first, other, recipe=True)
    assert not same(first, erase(demo, lines[:3], preserve=kept, **options))


def test_text_concept_list_and_sets_are_equal(demo):
    concept = Concept("circle", anchor="square", aliases=("disc",), preserve=("star",))
    first = erase(demo, "circle | disc -> square\n+ star")
    for given in (concept, [concept], {concept}, ConceptSet((concept,)), (c for c in [concept])):
        assert same(first, erase(demo, given), recipe=True)
    assert same(first, erase(demo, "circle | disc -> square", preserve="star"), recipe=True)


def test_an_alias_is_erased_like_a_concept_of_its_own(demo):
    both = erase(demo, "circle | disc -> square", exact=True)
    apart = erase(demo, "circle -> square\ndisc -> square", exact=True)
    assert same(both, apart)
    assert not same(both, erase(demo, "circle -> square", exact=True))


def test_erasing_reads_the_model_and_changes_nothing(fresh):
    before = fresh.fingerprint
    first = erase(fresh, "circle -> square", generation="2023")
    assert fresh.fingerprint == before
    assert same(first, erase(fresh, "circle -> square", generation="2023"), recipe=True)


def moved(erasure, row):
    t = erasure.maps["clip_l"].matrix()
    return ((t @ row.double() - row.double()).norm() / row.double().norm()).item()


def test_the_published_empty_guide_moves_the_start_token_and_ours_does_not(demo, plain):
    start = plain.rows("")[0]
    theirs, ours = erase(demo, "circle", parity=True), erase(demo, "circle")
    worst = ours.diagnostics["clip_l"]["drift_worst"]
    assert moved(ours, start) <= worst * (1 + 1e-4) + 1e-6
    assert moved(theirs, start) > 2 * moved(ours, start)


def test_protecting_the_empty_prompt_more_moves_it_less(demo, plain):
    empty = plain.rows("").double()
    drift = []
    for protect in (0.0, 1.0, 10.0, 1000.0):
        change = erase(demo, "circle -> square", protect=protect).maps["clip_l"].matrix() - torch.eye(64)
        drift.append((empty @ change.T).norm().item())
    assert drift == sorted(drift, reverse=True)
    assert drift[-1] < drift[0] / 10


def test_moderation_without_parity_aims_at_the_empty_prompts_own_position(demo, plain):
    erasure = erase(demo, "circle", mode="moderate", expand_prompts=False, lamb=0.001, protect=0.0)
    row, goal, start = plain.rows("circle")[1].double(), plain.rows("")[1].double(), plain.rows("")[0].double()
    reached = erasure.maps["clip_l"].matrix() @ row
    assert (reached - goal).norm() < 0.01 * (row - goal).norm()
    assert (reached - start).norm() > 0.5 * (goal - start).norm()


def test_our_ridge_is_in_units_of_the_rows(demo, plain):
    erasure = erase(demo, "circle -> square", lamb=0.25, expand_prompts=False, protect=0.0)
    rows = plain.rows("circle")[[1, 2]].double()  # the word and the end of text
    assert erasure.recipe["ridge"] == pytest.approx(0.25 * rows.square().sum(1).mean().item() / 64, rel=1e-5)
    assert erase(demo, "circle -> square", lamb=0.25, parity=True).recipe["ridge"] == 0.25


@pytest.mark.parametrize(("anchor", "alpha"), [("square", "0.4"), ("square / star / a moon", "0.4/-0.1/ 2")])
def test_debias_adds_attributes_by_given_alphas(subject, anchor, alpha):
    model, plain = subject
    erasure = erase(model, f"circle -> {anchor}", mode="debias", alpha=alpha, parity=True, exact=True)
    (source, target), *_ = published.rows_2025(plain, [("circle", "circle")])
    for part, factor in zip(anchor.split("/"), alpha.split("/"), strict=True):
        target = target + float(factor) * published.rows_2025(plain, [("", part.strip())])[0][1]
    assert_published(erasure, model, [(source, target)], [])
    assert erasure.recipe["options"]["alpha"] == " / ".join(str(float(value)) for value in alpha.split("/")).replace(
        "2.0", "2"
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("circle", {}, "mode=debias needs an anchor for 'circle': write 'circle -> attribute / other attribute'"),
        ("circle -> square / star", {}, "'circle' has 2 attributes but alpha has 1 numbers"),
        ("circle -> square", {"generation": "2023"}, "mode=debias belongs to generation=2025"),
        ("circle -> square", {"singular": 1}, "mode=debias keeps the concept and 'singular' removes it"),
        ("circle -> square", {"alpha": "a lot"}, "numbers from -10 to 10 with / between"),
        ("circle -> square", {"alpha": "0.1 / 11"}, "numbers from -10 to 10 with / between"),
    ],
)
def test_debias_says_what_it_needs(demo, text, options, message):
    with pytest.raises(BadInput, match=message):
        erase(demo, text, mode="debias", **options)


def test_neutral_words_stand_in_for_a_missing_anchor(demo):
    own = demo.neutrals["object"]
    assert same(erase(demo, "circle"), erase(demo, f"circle -> {own}"))
    assert same(erase(demo, "circle", neutrals={"object": "ring"}), erase(demo, "circle -> ring"))
    assert erase(demo, "circle").recipe["concepts"][0]["anchor"] == own


def test_the_recipe_is_plain_data_that_says_everything(demo):
    erasure = erase(demo, "circle | disc -> square @ 1.5\n+ star", preserve=["moon"], lamb=0.3, expand_prompts="yes")
    recipe = json.loads(json.dumps(erasure.recipe))
    assert recipe == erasure.recipe
    entry = {"target": "circle", "anchor": "square", "aliases": ["disc"], "kind": "object", "weight": 1.5}
    assert recipe["method"] == "uce"
    assert recipe["concepts"] == [entry]
    assert recipe["preserve"] == ["moon", "star"]
    assert recipe["options"] == {"lamb": 0.3, "expand_prompts": True}
    assert (recipe["parity"], recipe["selection"], recipe["seeds"]) == (False, "LAST+EOT", [])
    assert len(recipe["rows"]["clip_l"]) == erasure.maps["clip_l"].rank
    assert erasure.gate == {"phrases": ["circle", "disc"], "neighbours": ["moon", "star"]}
    assert (erasure.base["family"], erasure.base["clip_skip"], erasure.base["widths"]) == ("sd1", 1, {"clip_l": 64})
    json.dumps([erasure.base, erasure.gate, erasure.diagnostics])


def test_diagnostics_are_true_of_the_map(demo, plain):
    erasure = erase(demo, "circle -> square", preserve=["star", "moon"], parity=True)
    t = erasure.maps["clip_l"].matrix()
    c, a = (plain.rows(text)[1].double() for text in ("circle", "square"))
    drift = [moved(erasure, plain.rows(text)[1]) for text in ("star", "moon")]
    numbers = erasure.diagnostics["clip_l"]
    assert numbers["residual"] == pytest.approx(((t @ c - a).norm() / (c - a).norm()).item(), rel=1e-4)
    assert numbers["drift"] == pytest.approx(sum(drift) / 2, rel=1e-4)
    assert numbers["drift_worst"] == pytest.approx(max(drift), rel=1e-4)
    assert numbers["norm"] == pytest.approx(torch.linalg.svdvals(t - torch.eye(64))[0].item(), rel=1e-4)


def test_an_unknown_option_lists_the_known_ones_with_ranges(demo):
    with pytest.raises(BadInput) as caught:
        erase(demo, "circle", epochs=3)
    message = str(caught.value)
    assert "'uce' has no option 'epochs'" in message
    known = ("generation (2025 | 2023", "technique (replace | tensor", "mode (erase | moderate | replace | debias")
    for part in (
        *known,
        "erase_scale (0 to 1000",
        "preserve_scale (0 to 1000",
        "lamb (0 to 1e+06",
        "expand_prompts (yes",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lamb": -1}, "lamb"),
        ({"erase_scale": "much"}, "erase_scale"),
        ({"generation": "2024"}, "generation"),
        ({"exact": "perhaps"}, "exact"),
        ({"preserve_scale": float("nan")}, "preserve_scale"),
    ],
)
def test_an_option_out_of_range_is_named(demo, options, name):
    with pytest.raises(BadInput, match=f"'{name}'"):
        erase(demo, "circle", **options)


def test_an_unknown_method_lists_the_known_ones(demo):
    with pytest.raises(BadInput, match=r"'magic'.*uce"):
        erase(demo, "circle", method="magic")


@pytest.mark.parametrize("nothing", ["", "# only a comment", [], "   "])
def test_no_concept_is_refused(demo, nothing):
    with pytest.raises(BadInput):
        erase(demo, nothing)


def test_a_damaged_text_encoder_is_refused(fresh):
    with torch.no_grad():
        fresh.pipe.text_encoder.final_layer_norm.weight[0] = float("nan")
    with pytest.raises(IllConditioned, match="NaN or infinite"):
        erase(fresh, "circle")


def test_emoji_and_other_alphabets_are_concepts_like_any(demo):
    erasure = erase(demo, "🔴 円 | Ω -> square")
    assert torch.isfinite(erasure.maps["clip_l"].matrix()).all()
    assert erasure.maps["clip_l"].rank >= 1


def test_erasing_with_erase_scale_zero_changes_nothing(demo):
    erasure = erase(demo, "circle -> square", erase_scale=0)
    assert torch.equal(erasure.maps["clip_l"].matrix(), torch.eye(64, dtype=torch.float64))


def test_the_solver_alone_makes_the_same_map(demo, plain):
    """The public solver on rows a caller picks by hand is what the method does."""
    c, a = plain.rows("circle")[1:2], plain.rows("square")[1:2]
    by_hand = EditProblem(c, a, ridge=0.5, space="clip_l").solve().matrix()
    by_method = erase(demo, "circle -> square", parity=True).maps["clip_l"].matrix()
    assert torch.equal(by_hand, by_method)

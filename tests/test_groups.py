"""Prompt groups: sizes, seeds, what prompts say and what they must not say."""

from __future__ import annotations

from collections import Counter

import pytest

from erasure_core.concepts import KINDS, Concept
from erasure_core.demo.world import ATTRIBUTES, COLOURS, SHAPES, STYLES
from erasure_core.errors import BadInput
from erasure_core.evaluation import demo_prompts as demo
from erasure_core.evaluation.concept_prompts import concept_groups
from erasure_core.evaluation.groups import FULL, QUICK, STANDARD, Case, PromptGroup, make_group, reroll, seed_of
from erasure_core.evaluation.templates import DIRECT_TEMPLATES, PARAPHRASE_TEMPLATES, UNRELATED_PROMPTS
from erasure_core.evaluation.wording import fill, leave_out, names


def _named(groups):
    return {group.name: group for group in groups}


def _concept(kind="object"):
    neighbours = tuple(f"neighbour{i}" for i in range(45))
    return Concept("teapot", aliases=("kettle", "samovar"), preserve=neighbours, kind=kind)


def test_every_kind_has_ten_templates_and_forty_unrelated_prompts_exist():
    assert set(DIRECT_TEMPLATES) == set(KINDS)
    for templates in (*DIRECT_TEMPLATES.values(), PARAPHRASE_TEMPLATES):
        assert len(templates) == len(set(templates)) == 10
        assert all(template.count("{}") == 1 for template in templates)
    assert len(UNRELATED_PROMPTS) == len(set(UNRELATED_PROMPTS)) == 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [QUICK, STANDARD, FULL], ids=lambda size: size.name)
def test_sizes_are_those_of_the_protocol(kind, size):
    groups = _named(concept_groups(_concept(kind), size))
    assert len(groups["D"].cases) == size.direct[0] * size.direct[1]
    assert len(groups["P"].cases) == size.paraphrase[0] * size.paraphrase[1]
    assert len(groups["M"].cases) == size.misspelling[0] * size.misspelling[1]
    assert len(groups["N"].cases) == size.neighbours[0] * size.neighbours[1]
    per_neighbour = Counter(case.expect["concept"] for case in groups["N"].cases)
    assert set(per_neighbour.values()) == {size.neighbours[1]}
    free = [text for text in UNRELATED_PROMPTS if not names(text, "teapot")]
    assert len(free) == 39, "the prompt that names the concept itself is not unrelated"
    assert len(groups["U"].cases) == min(39, size.unrelated[0]) * size.unrelated[1]
    assert ("U2" in groups) == (size.unrelated[1] == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_name_the_concept_only_where_they_should(kind):
    groups = _named(concept_groups(_concept(kind), STANDARD))
    assert all(names(case.prompt, "teapot") for case in groups["D"].cases)
    spellings = ("teapot", "kettle", "samovar")
    used = Counter(word for case in groups["P"].cases for word in spellings if names(case.prompt, word))
    assert len(used) == 3
    assert sum(used.values()) == len(groups["P"].cases)
    for name in ("O", "M", "N", "U"):
        assert not any(names(case.prompt, "teapot") for case in groups[name].cases), name
    assert all(case.expect == {"concept": "teapot"} for name in "DOPM" for case in groups[name].cases)
    assert all(case.prompt.strip(" ,") == case.prompt for name in "DO" for case in groups[name].cases)


def test_paraphrases_without_aliases_are_other_word_orders():
    groups = _named(concept_groups(Concept("teapot"), QUICK))
    direct = {case.prompt for case in groups["D"].cases}
    assert groups["P"].cases
    assert not direct & {case.prompt for case in groups["P"].cases}
    assert "N" not in groups


def test_wording_keeps_sentences_whole():
    assert fill("a photo of a {}", "apple") == "a photo of an apple"
    assert fill("a photo of a {}", "the Eiffel Tower") == "a photo of the Eiffel Tower"
    assert fill("a {} in a garden", "dog") == "a dog in a garden"
    assert leave_out("a photo of a {}") == "a photo"
    assert leave_out("a {} in a garden") == "in a garden"
    assert leave_out("a bridge in the rain, {} style") == "a bridge in the rain"
    assert leave_out("two horses in the style of {}") == "two horses"
    assert leave_out("{}") == ""
    assert not names("a doghouse", "dog")
    assert names("A Dog, running", "dog")


def test_a_prompt_has_the_same_seeds_wherever_it_stands():
    small, large = _named(demo.demo_groups("star", demo.QUICK)), _named(demo.demo_groups("star", demo.STANDARD))
    other = _named(demo.demo_groups("moon", demo.STANDARD))
    drawn = {(case.prompt, case.seed) for case in large["D"].cases}
    assert {(case.prompt, case.seed) for case in small["D"].cases} < drawn
    asked = {(case.prompt, case.seed) for case in other["N"].cases if case.expect["shape"] == "star"}
    assert asked < drawn
    assert seed_of("a red star", 3) == seed_of("a red star") + 3
    with pytest.raises(BadInput, match="1 to 100 times"):
        make_group("D", "d", "direct", "shape", [("a", {"shape": "circle"})], 101)


def test_no_two_prompts_of_a_group_share_a_seed():
    for group in (*concept_groups(_concept(), STANDARD), *demo.demo_groups("star", demo.STANDARD)):
        assert len({case.seed for case in group.cases}) == len(group.cases)


def test_reroll_has_the_same_prompts_and_other_seeds():
    group = make_group("U", "u", "unrelated", "shape", [("a", {}), ("b", {})], 3, seed=7)
    other = reroll(group, "U2")
    assert [case.prompt for case in other.cases] == [case.prompt for case in group.cases]
    assert not {case.seed for case in other.cases} & {case.seed for case in group.cases}
    assert other.base_only
    assert not group.base_only


def test_groups_refuse_what_cannot_be_counted():
    with pytest.raises(BadInput, match="role"):
        PromptGroup("D", "d", "direkt", "shape", ())
    with pytest.raises(BadInput, match="empty prompt"):
        PromptGroup("D", "d", "direct", "shape", (Case(" ", 0, "D", {"shape": "circle"}),))
    with pytest.raises(BadInput, match="which shape"):
        PromptGroup("D", "d", "direct", "shape", (Case("a circle", 0, "D"),))
    with pytest.raises(BadInput, match="twice with the same seed"):
        PromptGroup("U", "u", "unrelated", "shape", (Case("a", 0, "U"), Case("a", 0, "U")))
    with pytest.raises(BadInput, match="stands in group"):
        PromptGroup("D", "d", "direct", "shape", (Case("a circle", 0, "E", {"shape": "circle"}),))
    with pytest.raises(BadInput, match="kind 'mood'"):
        concept_groups(_Mood())


class _Mood:
    """What a concept of a kind unknown here looks like (the real class refuses to be made)."""

    target, kind, aliases, preserve = "joy", "mood", (), ()


@pytest.mark.parametrize("target", [*SHAPES, *COLOURS, *STYLES])
def test_demo_groups_say_what_they_expect(target):
    attribute = demo.attribute_of(target)
    groups = _named(demo.demo_groups(target, demo.STANDARD))
    for name, group in groups.items():
        for case in group.cases:
            for what, label in case.expect.items():
                assert label in ATTRIBUTES[what]
                plain = (what != attribute or name in "DN") and name != "I"
                assert not plain or names(case.prompt, label), (name, case)
    assert len(groups["D"].cases) == len(groups["O"].cases) == 64
    assert not any(names(case.prompt, target) for name in groups if name != "D" for case in groups[name].cases)
    assert all(case.expect[attribute] == target for name in groups if name in "DOPMI" for case in groups[name].cases)
    others = set(ATTRIBUTES[attribute]) - {target, "solid"}
    assert {case.expect[attribute] for case in groups["N"].cases} == others
    assert target not in {label for case in groups["T"].cases + groups["B"].cases for label in case.expect.values()}


def test_demo_left_out_is_the_direct_prompt_without_the_word():
    groups = _named(demo.demo_groups("circle"))
    assert [case.prompt for case in groups["O"].cases][:3] == ["a red", "a red", "an orange"]
    assert [case.seed for case in groups["O"].cases] == [case.seed for case in groups["D"].cases]
    assert _named(demo.demo_groups("orange"))["O"].cases[0].prompt == "a circle"
    assert _named(demo.demo_groups("striped"))["O"].cases[0].prompt == "a red circle"


def test_demo_sizes_grow_and_unknown_words_are_refused():
    sizes = [sum(len(group.cases) for group in demo.demo_groups("moon", size)) for size in demo.SIZES.values()]
    assert sizes == sorted(sizes)
    assert sizes[0] < 120
    with pytest.raises(BadInput, match=r"does not know .dragon.*circle"):
        demo.demo_groups("dragon")


def test_quality_groups_cover_every_pair():
    groups = _named(demo.quality_groups(8))
    assert len(groups["A"].cases) == 512
    assert {(c.expect["shape"], c.expect["colour"]) for c in groups["A"].cases} == {
        (s, c) for s in SHAPES for c in COLOURS
    }
    assert {case.expect["shape"] for case in groups["P"].cases} == set(SHAPES)

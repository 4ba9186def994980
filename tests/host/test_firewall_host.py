"""The Concept Firewall in real samplings: what a prompt names is erased from it, and everything else is bitwise as it
was. Differences are relative 2-norms of the U-Net's answers."""

import sys

import pytest

EXACT = 1e-5
SIX = ["a red circle", "two Circles", "a disc", "[circle]", "((a red circle)) on blue", "(circle:0.2)"]
NAMED = [*SIX, "a (red (circle:1.3):0.5), blurred", "a \\(circle\\)", "blue " * 80 + "circle", "a blue heart"]
OTHER = ["a red star", "a semicircle", "", "(moon:1.4) and a [cross]", "blue " * 80 + "star"]


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("firewall")


@pytest.fixture(scope="module")
def files(in_comfy):
    return in_comfy("policies")


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_untouched_prompts_are_bitwise_the_same_and_named_ones_are_not(answer, sampler):
    expected = {f"{sampler}: {prompt}": prompt in OTHER for prompt in NAMED + OTHER}
    assert {name: same for name, same in answer["pictures"].items() if name.startswith(sampler)} == expected


def test_the_page_is_told_which_rules_each_prompt_touches(answer):
    named = {prompt: [["circle"], [[1.0]], "exact"] for prompt in NAMED[:-1]}
    named["a blue heart"] = [["heart"], [[1.0]], "exact"]
    named["hearts and circles"] = [["circle", "heart"], [[1.0, 1.0]], "exact"]
    assert answer["told"] == {**named, **{prompt: [[], [[]], "exact"] for prompt in OTHER}}


def test_the_negative_prompt_is_left_alone(answer):
    """It names a circle; the first of each pair is the answer to the prompt, the second to the negative one."""
    assert answer["negative"] == {"a red star": [True, True], "a red circle": [False, True]}


@pytest.mark.parametrize("kind", ["demo", "sdxl"])
def test_each_prompt_of_many_has_its_own_map(answer, kind):
    found = answer["together"][kind]
    assert min(found["combined acts"], found["stacked acts"]) > 1e-3
    assert max(found[name] for name in ("combined", "stacked", "the same picture of a batch")) <= EXACT
    assert found["stacked, bitwise plain"][2], "the star, which no rule names"
    assert kind != "demo" or found["stacked, bitwise plain"] == [False, False, True, False]


@pytest.mark.parametrize("kind", ["demo", "sdxl"])
def test_the_map_is_the_one_of_the_library(answer, kind):
    found = answer["by hand"][kind]
    assert found["acts"] > 0.1 and found["reference"] <= 1e-6 and found["negative, bitwise"]
    if kind == "sdxl":
        assert found["label acts"] > 0.1 and found["label"] <= 1e-6
        assert found["sizes, bitwise"] and found["negative label, bitwise"]


@pytest.mark.parametrize("case", ["unstamped", "concat", "average"])
def test_texts_without_words_are_judged_by_their_vectors(answer, case):
    names, ((gain,),), mode, same = answer["vectors"][f"{case}, True"]
    assert (names, mode, same) == (["circle"], "approximate", False) and 0.5 < gain <= 1
    assert answer["vectors"][f"{case}, False"] == [[], [[]], "unjudged", True]


def test_texts_without_words_that_are_not_alike_pass_bitwise(answer):
    assert answer["vectors"]["unstamped, other, True"] == [[], [[]], "approximate", True]


def test_texts_of_regions_are_screened(answer):
    """Rows that attention reads: the negative prompt, the prompt, the region of a blue circle, that of a red moon."""
    assert answer["regions"]["bitwise"] == {
        "a red circle, True": [True, False, False, True],
        "a red star, True": [True, True, False, True],
        "a red circle, False": [True, False, True, True],
        "a red star, False": [True, True, True, True],
    }
    assert answer["regions"]["judged"] == 3, "the prompt and both regions, once for all layers and steps"


@pytest.mark.parametrize("pair", ["guard, erase", "erase, guard", "guard, apply", "apply, guard", "two guards"])
def test_beside_other_nodes_of_ours(answer, pair):
    found = answer["beside"][pair]
    assert found["star is as without the firewall"] and found["circle is as without the firewall"]
    assert found["both act"] > 1e-2
    assert found["heart is as with the firewall alone"] == ("erase" not in pair), "Erase acts on every prompt"


def test_what_the_node_was_given_is_unchanged(answer):
    found = answer["inputs"]
    assert found["changed inputs"] == [] and not found["run left in the options"]
    assert found["acts"] > 1e-2 and found["base afterwards, bitwise"] and found["vectors, bitwise"]


def test_a_prompt_of_more_concepts_than_can_be_erased_is_refused(answer):
    assert answer["crowd"]["64"] == ""
    assert answer["crowd"]["65"].startswith("BadInput: This prompt names 65 concepts of the policy; at most 64")


def test_every_form_of_policy_file_says_the_same(files):
    found = files["forms"]
    forms = ["list.txt", *(["rules.toml"] if "rules.toml" in found else []), "sub/rules.json", "table.csv"]
    assert found["listed"] == found["listed afterwards"] == ["(none)", *forms]
    assert found["acts"] > 1e-2 and all(found[form] for form in forms)
    assert found["indexes"] == sorted(f"{form.rpartition('/')[2]}.index.safetensors" for form in forms)
    assert "rules.toml" in found or sys.version_info < (3, 11)


def test_the_index_is_made_once_and_again_for_another_policy(files):
    found = files["index"]
    assert not found["without vectors"]
    assert found["used again"] and found["the same, unchanged"]
    (((((gain,),), mode)),) = found["gains by it"]
    assert mode == "approximate" and 0.5 < gain <= 1 and found["acts by it"] > 1e-2
    assert found["another, changed"] and found["made anew"] and found["circle passes now"]
    assert "one.txt.index.safetensors cannot be read" in found["damaged"]


def test_a_file_and_connected_concepts_are_one_policy(files):
    assert files["joined"] == ["circle", "moon"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nothing", "There is no policy: no file is chosen and no concepts are connected. Choose a file"),
        ("gone", "There is no policy: 'gone.json' is not in models/membrane_policies and no concepts are connected."),
        ("gone, with concepts", "There is no policy: 'gone.json' is not in models/membrane_policies. Choose a file."),
        ("outside", "There is no policy: '../../../x.json' is not in models/membrane_policies"),
        ("broken", "broken.json, rule 1: there is no field 'concpt'. Did you mean 'concept'?"),
        ("two sensitivities", "'circle' has two sensitivities, 0.5 and 0. Keep one of the rules."),
    ],
)
def test_what_cannot_be_used_is_one_sentence(files, case, words):
    assert files["refused"][case].startswith(f"BadInput: {words}")


def test_a_folder_that_cannot_be_written_to_stops_nothing(files):
    found = files["read_only"]
    if found is None:
        pytest.skip("this user may not mount a disk")
    assert found["files"] == ["p.txt"] and found["acts"] > 1e-2
    assert "note: The index of the policy could not be saved" in found["receipt"]

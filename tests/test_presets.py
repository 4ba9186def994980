"""Presets: ours are sound and erase, a studio's own are read, and every fault is one sentence."""

import json

import pytest

from erasure_core import cli, erase, load, presets
from erasure_core.closed_form import erase_with
from erasure_core.errors import BadInput

READY = {"nudity", "unsafe", "watermark"}


def test_the_usual_jobs_are_there():
    assert presets.names() == ["character", "nudity", "object", "person", "style", "unsafe", "watermark"]


@pytest.mark.parametrize("name", presets.names())
def test_ours_are_sound_and_erase(demo, name):
    preset = presets.load(name)
    assert preset.name == name and preset.summary.endswith(".") and len(preset.preserve) >= 7
    assert bool(preset.concepts) == (name in READY)
    chosen = preset.concept_set("" if name in READY else "circle -> square")
    assert all(concept.anchor for concept in chosen) and {c.kind for c in chosen} == {preset.kind}
    made = erase_with(demo, chosen, preset.method, preset.options)
    assert made.recipe["method"] == preset.method and made.gate["neighbours"] == sorted(preset.preserve)


def test_more_concepts_and_phrases_may_be_added():
    preset = presets.load("nudity")
    chosen = preset.concept_set("a bikini -> a dress\n+ a towel")
    assert [c.target for c in chosen][-1] == "a bikini" and "a towel" in chosen.all_preserved
    assert "a swimsuit at the beach" not in preset.concept_set("a swimsuit at the beach -> a coat").all_preserved


def test_a_preset_for_ones_own_concepts_asks_for_them():
    with pytest.raises(BadInput, match="The preset 'person' names no concept of its own: say which ones"):
        presets.load("person").concept_set("")


def test_one_of_ones_own(tmp_path):
    path = tmp_path / "house.json"
    path.write_text(json.dumps({"method": "trce", "options": "num_templates=3", "concepts": ["circle -> square"]}))
    preset = presets.load(str(path))
    assert (preset.name, preset.method, preset.options) == ("house", "trce", "num_templates=3")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "needs at least a method"),
        ({}, "needs at least a method"),
        ({"method": "uce", "anchor": "x"}, "an entry 'anchor' that nobody reads. Known: summary"),
        ({"method": "magic"}, "The preset 'mine' cannot be used. Unknown method 'magic'"),
        ({"method": "uce", "options": {"lamb": 1}}, '"options" is one text'),
        ({"method": "uce", "options": "speed=1"}, "'uce' has no option 'speed'"),
        ({"method": "uce", "concepts": "circle"}, '"concepts" is a list of lines'),
        ({"method": "uce", "concepts": ["a", "b -> c -> d"]}, "Line 2, column 11: two anchors"),
        ({"method": "uce", "kind": "shape"}, "'shape' is no kind"),
        ({"method": "uce", "preserve": "moon"}, "preserve is a list of phrases"),
    ],
)
def test_a_fault_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput) as caught:
        presets.load(str(path))
    assert words in str(caught.value)


def test_a_file_that_is_missing_names_ours():
    with pytest.raises(BadInput, match=r"no preset 'nude'\. Ours are: character, nudity"):
        presets.load("nude")


def run(capsys, *arguments):
    code = cli.main(["erase", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_takes_a_preset(capsys, tmp_path, demo):
    mine, out = tmp_path / "mine.json", tmp_path / "made.safetensors"
    content = {"method": "trce", "options": "num_templates=3, lamb=0.2", "preserve": ["moon"], "kind": "style"}
    mine.write_text(json.dumps(content))
    code, said, _ = run(
        capsys, "--preset", str(mine), "--concepts", "dotted -> art", "--option", "lamb=0.4", "--out", str(out)
    )
    assert code == 0 and "1 concept erased by trce" in said
    recipe = load(out).recipe
    assert recipe["options"] == {"num_templates": 3, "lamb": 0.4} and recipe["preserve"] == ["moon"]
    assert recipe["concepts"][0]["kind"] == "style"
    expected = erase(demo, "style: dotted -> art", "trce", ["moon"], num_templates=3, lamb=0.4)
    assert expected.recipe == recipe


def test_another_method_leaves_the_presets_options_out(capsys, tmp_path):
    out = tmp_path / "made.safetensors"
    code, said, _ = run(capsys, "--preset", "nudity", "--method", "trce", "--kind", "person", "--out", str(out))
    assert code == 0 and "6 concepts erased by trce" in said
    assert load(out).recipe["options"] == {} and load(out).recipe["concepts"][0]["kind"] == "person"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "nowhere"], "There is no preset 'nowhere'"),
        (["--preset", "person"], "names no concept of its own"),
        ([], "no concept to erase"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(capsys, tmp_path, arguments, words):
    code, out, err = run(capsys, *arguments, "--out", str(tmp_path / "x.safetensors"))
    assert (code, out) == (1, "") and words in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())

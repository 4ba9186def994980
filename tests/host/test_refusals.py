"""What a user can get wrong in the nodes: told in one line, by name, with what to do; nothing is written."""

import pytest


def unlike(clip, model):
    return f"WrongFamily: This text encoder gives vectors of width {clip}, this model reads {model}. Connect MODEL and"


def foreign(space, model):
    return f"WrongFamily: The erasure acts on the text space {space}; this {model} model has"


ENCODER = "WrongBase: This erasure was made with another text encoder or clip-skip (distance 1"
MODELS = {
    "erase: SD1 model, SDXL clip": unlike(160, 64),
    "erase: SDXL model, SD1 clip": unlike(64, 160),
    "erase: SDXL model, SD2 clip": unlike(48, 160),
    "erase: SD1 model, SD2 clip": unlike(48, 64),
    "SD1 model, SDXL clip": unlike(160, 64),
    "SDXL model, SD1 clip": foreign("clip_l of width 64", "sdxl"),
    "SD1 model, SD2 clip": unlike(48, 64),
    "SDXL membrane on SD1": foreign("sdxl_lg of width 160", "sd1"),
    "SD1 membrane on SDXL": foreign("clip_l of width 64", "sdxl"),
    "another text encoder": ENCODER,
    "another text encoder, weights": ENCODER,
}
ERASING = {
    "unknown option": "'uce' has no option 'lamda'. Its options: pooled (yes | no; default",
    "out of range": "The option 'lamb' cannot be '-1'. It takes 0 to 1e+06",
    "no number": "The option 'lamb' cannot be 'much'. It takes 0 to 1e+06",
    "not an option": "'strong' is not an option. Write name=value, separated by commas",
    "nothing": "There is no concept to erase. Write at least one, one per line",
    "only comments": "There is no concept to erase. Write at least one, one per line",
    "only an arrow": "Line 1, column 1: the phrase to erase is missing. Write it first",
    "ten thousand words": "Line 1, column 1: The target beginning 'word word",
    "erased and preserved": "Line 2, column 3: 'circle' is to be erased and to be preserved. Remove one of the two.",
}
LATER = {"nothing", "only comments"}  # concepts may still come from a linked node
MISSING = "is not in models/membranes or models/loras, and this workflow has no recipe to solve it again."
LOADING = {
    "missing": f"'nowhere.safetensors' {MISSING}",
    "not chosen": f"'(no file yet)' {MISSING}",
    "outside": f"'../../whole.safetensors' {MISSING}",
    "absolute": f"whole.safetensors' {MISSING}",
    "cut off": "cut.safetensors is cut off: it ends before its tensors do.",
    "empty": "empty.safetensors is empty (0 bytes).",
    "pickle": "pickle.safetensors is a PyTorch pickle",
    "picture": "picture.safetensors is not a safetensors file",
}
OUTSIDE = "lies outside the folder membranes. Write a name, or folder/name."
NAMELESS = "The name of the file is empty. Write one, such as no-circle."
SAVING = {
    "outside": f"CannotWrite: '../x' {OUTSIDE}",
    "outside, backslash": f"CannotWrite: '..\\x' {OUTSIDE}",
    "far outside": f"CannotWrite: 'a/../../x' {OUTSIDE}",
    "absolute": f"CannotWrite: '/x/y' {OUTSIDE}",
    "drive": f"CannotWrite: 'C:\\x' {OUTSIDE}",
    "empty": f"CannotWrite: {NAMELESS}",
    "spaces": f"CannotWrite: {NAMELESS}",
    "a folder": f"CannotWrite: {NAMELESS}",
    "lora without a model": "BadInput: A LoRA belongs to one model. Connect model and clip of the checkpoint it is for",
    "no membrane": "BadInput: There is no membrane to save. Connect at least one.",
}
GATES = {
    "words": "BadInput: The gate 'words' opens when a prompt names the concept, but this file does not say what it",
    "strength": "BadInput: The strength of a membrane is a number like 1 or 0.5, not nan.",
    "act_on": "BadInput: act_on is one of auto, text, weights, not 'everything'.",
    "rows": "BadInput: rows must be 'cond' or 'all', not 'some'.",
    "empty": "NothingMatched: The erasure is empty: it changes nothing. Choose another file or erase again.",
}


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("refusals")


@pytest.mark.parametrize("case", MODELS)
def test_parts_that_do_not_belong_together(answer, case):
    said = answer["models"][case]
    assert said.startswith(MODELS[case]) and "\n" not in said
    assert "Connect MODEL and CLIP of the same checkpoint." in said or "rase again with this model" in said


@pytest.mark.parametrize("case", ERASING)
def test_options_and_concepts_before_and_while_running(answer, case):
    ran, before = answer["erasing"][case]
    assert ran.startswith(f"BadInput: {ERASING[case]}") and "\n" not in ran
    assert before is True if case in LATER else f"BadInput: {before}" == ran


@pytest.mark.parametrize("case", LOADING)
def test_files_that_are_missing_damaged_or_something_else(answer, case):
    said = answer["loading"][case]
    assert said.startswith("UnknownFormat: ") and LOADING[case] in said and "\n" not in said


@pytest.mark.parametrize("case", SAVING)
def test_names_and_forms_that_cannot_be_saved(answer, case):
    assert answer["saving"][case].startswith(SAVING[case]) and "\n" not in answer["saving"][case]
    assert answer["saving"]["nothing written"]


@pytest.mark.parametrize("case", GATES)
def test_gates_strengths_and_ways_to_apply(answer, case):
    assert answer["gates"][case].startswith(GATES[case]) and "\n" not in answer["gates"][case]


def test_a_full_disk_keeps_the_old_file(answer):
    if answer["disk"] is None:
        pytest.skip("this user may not mount a small disk")
    assert answer["disk"] == {
        "said": "CannotWrite: kept.safetensors was not saved: the disk is full. Free some space and save again. "
        "What was there before is untouched.",
        "kept": True,
        "files": ["filler", "kept.safetensors"],
    }

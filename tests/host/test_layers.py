"""Membranes that change layers while the model runs: against patches, merged weights and the host's own LoRA loader."""

import pytest

KINDS = ("demo", "sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def answer(in_comfy):
    return in_comfy("layers")


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_patches_are_lora_are_merged_weights(answer, kind):
    found = answer["forms"][kind]
    assert found["layers"] == (83 if kind == "demo" else 132)
    assert "acts on layers" in found["receipt"]
    assert max(found[name] for name in ("patches", "lora", "merged", "latents")) <= 1e-5
    assert found["plain"] > 0.1
    assert found["off, bitwise"] and found["hooks left"] == 0


@pytest.mark.parametrize("kind", ["flux-dev", "flux-schnell"])
def test_flux_is_changed_layer_by_layer_too(answer, kind):
    found = answer["flux"][kind]
    assert found["layers"] > 20 and found["plain"] > 0.05
    assert max(found[name] for name in ("patches", "merged", "named")) <= 1e-5
    assert found["other, bitwise"] and found["hooks left"] == 0


@pytest.mark.parametrize("kind", ["demo", "sdxl"])
def test_eight_mixed_membranes_are_their_dense_sum_in_any_order(answer, kind):
    found = answer["chain"][kind]
    assert found["acts"] > 0.1 and found["dense"] <= 1e-5
    assert found["permuted"] == 0 and found["two nodes"] == 0


@pytest.mark.parametrize("kind", ["demo", "sd2", "sdxl"])
def test_each_row_of_a_batch_has_its_own_gains(answer, kind):
    found = answer["gates"][kind]
    assert found["closed, bitwise"] == [False, True, False]
    assert found["stacked"] <= 1e-5 < found["stacked acts"]
    assert found["separate calls"] <= 1e-5 and found["negative follows"] <= 1e-5
    assert found["hooks left"] == 0


def test_the_negative_prompt_has_the_positive_ones_gain(answer):
    found = answer["negatives"]
    assert found["named in the negative alone, bitwise"]
    assert found["all rows"] <= 1e-5 and found["all rows spare the prompt"] <= 1e-6
    assert found["full"] <= 1e-5


def test_prompts_with_areas_and_packs_that_couple_regions(answer):
    """The host copies an entry with an area into the other list, uuid included, and only its text is the list's own."""
    found = answer["negatives"]
    assert found["areas: negative, bitwise"] and found["areas: prompts"] > 1e-3
    assert found["coupled"] <= 1e-5 < found["coupled acts"]


def test_it_acts_in_its_part_of_the_sampling_and_for_the_prompt_of_the_moment(answer):
    found = answer["steps"]
    assert [plain for plain, _ in found["late"]] == [True, False, False, True]
    assert [difference <= 1e-5 for _, difference in found["late"]] == [False, True, True, False]
    assert found["prompts in turn"] <= 1e-5 and found["prompts in turn, closed, bitwise"]


def test_other_packs_beside_it(answer):
    found = answer["neighbours"]
    for name in ("replaced", "wrapped", "lora"):
        assert found[name]["acts"] > 0.1, name
        assert max(found[name]["before"], found[name]["after"]) <= 1e-5, name
    assert found["control"]["before"] <= 1e-5 and found["control"]["acts"] > 0.1
    assert found["hooks left"] == 0


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "int8", "packed", "offloaded"])
def test_layers_of_any_storage_are_changed_exactly(answer, name):
    """No weight is touched, so none is rounded again."""
    found = answer["precisions"][name]
    assert found["acts"] > 0.1 and found["exact"] <= 1e-6
    assert found.get("is", True)


@pytest.mark.parametrize(("name", "tolerance"), [("float16", 5e-3), ("bfloat16", 4e-2)])
def test_computed_in_half_precision_it_is_the_patch_but_for_rounding(answer, name, tolerance):
    assert 0 < answer["precisions"][name]["computed"] <= tolerance


def test_a_cancelled_sampling_leaves_no_hook(answer):
    assert answer["failures"] == {"hooks meanwhile": True, "hooks after": 0, "bitwise": True}

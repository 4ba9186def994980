"""LoRA files for Flux: patches of ours equal the formula and, where it can read the file, ComfyUI's own loader.

A tiny random Flux of the host's own classes; weights are compared one by one, answers of the denoiser by their relative
2-norm at three noise levels.
"""

import pytest

EXACT = 1e-5
KINDS = ("kohya", "peft", "eraseanything", "slider")


@pytest.fixture(scope="module", params=("flux-dev", "flux-schnell"))
def answer(request, in_comfy, tmp_path_factory):
    return in_comfy("flux_loras", kind=request.param, folder=str(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(params=KINDS)
def found(answer, request):
    return answer[request.param]


def test_every_weight_is_what_the_formula_says(found):
    assert found["ours, formula"] <= EXACT
    assert found["acts"] > 0.02 and found["base afterwards, bitwise"]


def test_the_hosts_own_loader_draws_the_same(answer):
    for kind in ("kohya", "peft", "eraseanything"):
        assert answer[kind]["stock did not load"] == 0
        assert answer[kind]["stock"] <= EXACT


def test_sliders_load_whole_where_the_host_loads_nothing(answer):
    found = answer["slider"]
    assert found["deltas"] == 8 and found["method"] == "slider" and found["notes"] == ["start"]
    assert found["stock did not load"] == 3 * 8
    assert found["stock"] > 0.02  # the host's answer is that of the bare model


def test_files_of_ours_load_whole_in_the_host(found):
    for form in ("native", "lora"):
        assert found[form]["not loaded"] == 0
        assert found[form]["formula"] <= EXACT


def test_what_the_files_are(answer):
    assert answer["kohya"]["deltas"] == 2 * 2 * (3 + 4) + 3 * (4 + 2) + 1
    assert answer["peft"]["deltas"] == 8 + 11
    assert {kind: answer[kind]["method"] for kind in ("kohya", "peft")} == {"kohya": "lora", "peft": "lora"}
    assert answer["eraseanything"]["method"] == "eraseanything"
    assert all(answer[kind]["notes"] == [] for kind in ("kohya", "peft", "eraseanything"))

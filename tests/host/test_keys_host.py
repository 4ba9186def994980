"""Our name tables equal ComfyUI's own, asked in a process of its interpreter."""


def test_names_of_every_unet_weight_equal_the_hosts(in_comfy):
    answer = in_comfy("unet_names")
    assert {name: found["weights"] for name, found in answer.items()} == {
        "sd1": 686,
        "sd2": 686,
        "sdxl": 1680,
        "tiny": 324,
        "demo": 208,
    }
    assert {name: found["differ"] for name, found in answer.items()} == {name: [] for name in answer}


def test_names_of_every_weight_of_flux_equal_the_hosts(in_comfy):
    answer = in_comfy("flux_names")
    for name, found in answer.items():
        assert found["differ"] == [] and found["network"] == []
        assert found["known"] == found["all"] == {"flux": 20 + 19 * 32 + 38 * 14, "tiny": 20 + 2 * 32 + 3 * 14}[name]
    assert answer["flux"]["published"] and not answer["tiny"]["published"]

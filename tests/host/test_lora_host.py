"""ComfyUI's own LoRA loader takes every key of our export, and patches the weights we say it does."""

import pytest


@pytest.fixture(scope="module")
def answer(in_comfy, tmp_path_factory):
    return in_comfy("lora_keys", target=str(tmp_path_factory.mktemp("lora") / "x.safetensors"))


def test_the_hosts_tiny_model_is_recognised(answer):
    assert answer["family"] == "sd1" and answer["weights"] == 324


@pytest.mark.parametrize(("dtype", "tolerance"), [("torch.float32", 1e-5), ("torch.float16", 2e-3)])
def test_the_host_takes_every_key_of_our_lora(answer, dtype, tolerance):
    found = answer[f"lora {dtype}"]
    assert found["heard"] == []  # no "lora key not loaded"
    assert found["keys"] and found["taken"] == found["expected"] == 2 * 7 + 4
    assert found["worst"] < tolerance


def test_the_native_file_of_deltas_is_a_lora_for_the_host(answer):
    found = answer["native torch.float32"]
    assert found["heard"] == ["lora key not loaded: map.clip_l.down", "lora key not loaded: map.clip_l.up"]
    assert found["keys"] and found["worst"] < 1e-5

"""The native file: kept samples, bitwise round trips, determinism, sizes, and refusal of what is damaged or newer."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.errors import BadInput, IllConditioned, UnknownFormat, WrongFamily
from erasure_core.formats import describe, load, save
from erasure_core.keys import SD1, SD2

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "samples" / "native_v1.safetensors"
KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
RECIPE = {
    "method": "uce",
    "concepts": [
        {
            "target": "Mickey Mouse",
            "anchor": "a cartoon character",
            "aliases": ["Steamboat Willie", "a famous cartoon mouse", "mickey"],
            "kind": "character",
            "weight": 1.0,
        }
    ],
    "preserve": ["Minnie Mouse", "Donald Duck", "Snoopy", "a mouse"],
    "options": {"generation": "2025", "erase_scale": 1.0, "preserve_scale": 1.0, "lamb": 0.5, "expand_prompts": False},
    "selection": "LAST",
    "templates": ["{}", "a picture of {}", "an image of {}", "a photo of {}"],
    "ridge": 0.4137,
    "seeds": [],
    "parity": False,
    "rows": {"clip_l": [0]},
}


def realistic(width=768, rank=1):
    torch.manual_seed(0)
    probe = base64.b64encode(torch.randn(8, 16).half().numpy().tobytes()).decode()
    return Erasure(
        maps={"clip_l": EmbeddingMap("clip_l", (MapFactor(torch.randn(rank, width), torch.randn(width, rank)),))},
        recipe=RECIPE,
        base={"family": "sd1", "clip_skip": 1, "widths": {"clip_l": width}, "probe": {"clip_l": probe}},
        gate={"phrases": ["Mickey Mouse", "Steamboat Willie", "mickey"], "neighbours": RECIPE["preserve"]},
        diagnostics={
            "clip_l": {"condition": 812.4, "norm": 1.31, "residual": 0.0123, "drift": 0.004, "rows_erased": 16}
        },
    )


def ramp(count, step, start, *shape):
    return torch.tensor([start + step * i for i in range(count)]).reshape(*shape)


def test_the_kept_sample_of_version_1_loads_with_its_values():
    erasure = load(SAMPLE)
    first, second = erasure.maps["clip_l"].factors
    assert torch.equal(first.down, ramp(16, 0.125, -0.5, 2, 8)) and torch.equal(first.up, ramp(16, -0.25, 1.0, 8, 2))
    assert torch.equal(second.down, ramp(8, 0.5, 0.0, 1, 8)) and torch.equal(second.up, ramp(8, 0.0625, 0.0, 8, 1))
    assert torch.equal(second.bias, ramp(8, 1 / 4, -1.0, 8)) and first.bias is None
    assert set(erasure.weight_deltas) == {KEY, "unet.conv_in.weight", "unet.conv_in.bias"}
    delta = erasure.weight_deltas[KEY]
    assert (delta.scale, delta.rank, delta.shape) == (0.5, 2, (4, 8))
    assert torch.equal(delta.dense()[0], ramp(8, 0.0625, 0.5, 8))  # 0.5 * (0 * row 0 + 0.5 * row 1 of down)
    diff = erasure.weight_deltas["unet.conv_in.weight"].diff
    assert diff.dtype == torch.float16 and torch.equal(diff.float(), ramp(18, 1.0, 0.0, 2, 1, 3, 3))
    assert erasure.weight_deltas["unet.conv_in.bias"].diff.tolist() == [3.0, 3.25]
    assert erasure.recipe["concepts"] == [
        {"target": "Grüße 🦊", "anchor": "thing", "aliases": ["fox, red"], "kind": "object", "weight": 1.5}
    ]
    assert erasure.base == {"family": "sd1", "clip_skip": 1, "widths": {"clip_l": 8}, "probe": {"clip_l": "AAAA"}}
    assert erasure.gate == {"phrases": ["Grüße 🦊", "fox, red"], "neighbours": ["a dog"]}
    assert erasure.diagnostics == {"clip_l": {"condition": 12.5}} and erasure.applies == "kv"


def same(one, other):
    assert one.maps.keys() == other.maps.keys() and one.weight_deltas.keys() == other.weight_deltas.keys()
    for space, emap in one.maps.items():
        for mine, theirs in zip(emap.factors, other.maps[space].factors, strict=True):
            for part in ("down", "up", "bias"):
                a, b = getattr(mine, part), getattr(theirs, part)
                assert a is b is None or torch.equal(a, b)
    for name, delta in one.weight_deltas.items():
        theirs = other.weight_deltas[name]
        assert delta.scale == theirs.scale
        for part in ("down", "up", "diff"):
            a, b = getattr(delta, part), getattr(theirs, part)
            assert a is b is None or (a.dtype == b.dtype and torch.equal(a, b))
    for field in ("applies", "recipe", "base", "gate", "diagnostics"):
        assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("applies", ["kv", "k", "v"])
@pytest.mark.parametrize("name", ["plain", "ünï 🦊 code"])
def test_round_trip_is_bitwise(tmp_path, applies, name):
    torch.manual_seed(1)
    product = EmbeddingMap(
        "sdxl_lg",
        (
            MapFactor(torch.randn(3, 12), torch.randn(12, 3), torch.randn(12)),
            MapFactor(torch.randn(2, 12), torch.randn(12, 2)),
            MapFactor(torch.randn(0, 12), torch.randn(12, 0)),
        ),
    )
    pooled = EmbeddingMap("sdxl_pooled", (MapFactor(torch.randn(1, 7), torch.randn(7, 1)),))
    text = "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.weight"
    conv = "unet.down_blocks.0.resnets.1.conv2.weight"
    deltas = [
        WeightDelta(text, down=torch.randn(4, 12), up=torch.randn(12, 4), scale=0.25),
        WeightDelta(conv, down=torch.randn(3, 6, 3, 3), up=torch.randn(5, 3, 1, 1)),
        WeightDelta("unet.add_embedding.linear_1.weight", diff=torch.randn(3, 4).bfloat16()),
        WeightDelta("text_encoder.text_model.final_layer_norm.bias", diff=torch.randn(12)),
    ]
    erasure = Erasure(
        maps={"sdxl_lg": product, "sdxl_pooled": pooled},
        weight_deltas={delta.name: delta for delta in deltas},
        applies=applies,
        recipe={"method": "x", "concepts": [], "options": {"π": [1, 2.5, None, True]}},
        base={"family": "sdxl"},
        gate={"phrases": ['quo"te', "back\\slash", "\u2028", "🦊"]},
        diagnostics={"a": 1e-17},
    )
    path = save(erasure, tmp_path / name)
    assert path == tmp_path / f"{name}.safetensors"
    same(erasure, load(path))


def test_a_scale_that_fp32_cannot_hold_goes_into_the_tensors(tmp_path):
    torch.manual_seed(2)
    delta = WeightDelta(KEY, down=torch.randn(3, 8), up=torch.randn(4, 3), scale=0.1)
    diff = WeightDelta("unet.conv_in.weight", diff=torch.ones(2, 2, 3, 3), scale=0.1)
    erasure = Erasure(weight_deltas={KEY: delta, diff.name: diff})
    again = load(save(erasure, tmp_path / "x")).weight_deltas
    assert torch.allclose(again[KEY].dense(), delta.dense(), rtol=1e-6, atol=1e-6)
    assert torch.allclose(again["unet.conv_in.weight"].dense(), torch.full((2, 2, 3, 3), 0.1))


def test_tensors_have_the_documented_names_and_the_library_reads_them(tmp_path):
    path = save(realistic(), tmp_path / "x")
    with safe_open(path, framework="pt") as stream:
        assert sorted(stream.keys()) == ["map.clip_l.down", "map.clip_l.up"]
        assert stream.get_slice("map.clip_l.down").get_shape() == [1, 768]
        metadata = stream.metadata()
    assert json.loads(metadata["membrane.recipe"]) == RECIPE
    assert metadata["membrane.format"] == "1" and metadata["membrane.applies"] == "kv"
    assert metadata["modelspec.title"] == "without Mickey Mouse"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/membrane"
    assert not {"prompts", "rank", "alpha", "modelspec.date"} & metadata.keys()


def test_files_with_deltas_carry_the_legacy_trio(tmp_path):
    two = [dict(RECIPE["concepts"][0]), {**RECIPE["concepts"][0], "target": "Snoopy"}]
    deltas = {KEY: WeightDelta(KEY, down=torch.ones(4, 8), up=torch.ones(4, 4), scale=0.25)}
    for concepts, prompts in ((two, "Mickey Mouse,Snoopy"), ([{**two[0], "target": "a, b"}, two[1]], "a, b")):
        erasure = Erasure(weight_deltas=deltas, recipe={"method": "spm", "concepts": concepts})
        with safe_open(save(erasure, tmp_path / "x"), framework="pt") as stream:
            metadata = stream.metadata()
        assert (metadata["prompts"], metadata["rank"], metadata["alpha"]) == (prompts, "4", "1.0")


def test_a_realistic_rank_one_file_is_small(tmp_path):
    path = save(realistic(), tmp_path / "x")
    assert path.stat().st_size <= 10_000


def test_equal_erasures_give_equal_bytes_in_every_process(tmp_path):
    here = save(load(SAMPLE), tmp_path / "here").read_bytes()
    code = "import sys; from erasure_core.formats import load, save; save(load(sys.argv[1]), sys.argv[2])"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(SAMPLE), str(tmp_path / "there")], env=env, check=True)
    assert (tmp_path / "there.safetensors").read_bytes() == here


def write(path, tensors=None, **metadata):
    tensors = {"map.clip_l.down": torch.ones(1, 4), "map.clip_l.up": torch.ones(4, 1)} | (tensors or {})
    fields = {"membrane.format": "1"} | {f"membrane.{key}": value for key, value in metadata.items()}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path, fields)
    return path


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {"format": "2"}, r"x.safetensors is a Membrane file of version 2; .* reads version 1\. Update"),
        ({}, {"recipe": "{"}, r"membrane\.recipe cannot be read"),
        ({}, {"base": "[1]"}, r"membrane\.base is not a table"),
        ({"map.clip_l.up": None}, {}, "do not belong together"),
        ({"map.clip_l.up": torch.ones(5, 1)}, {}, "do not belong together"),
        ({"map.clip_l.bias": torch.ones(5)}, {}, "do not belong together"),
        ({"map.clip_l.2.up": torch.ones(4, 1)}, {}, "a factor of the map of clip_l is missing"),
        ({"map.clip_l.1.up": torch.ones(5, 1), "map.clip_l.1.down": torch.ones(1, 5)}, {}, "do not belong together"),
        ({"map.clip_l.odd": torch.ones(1)}, {}, "is no part of a map"),
        ({"something.else": torch.ones(1)}, {}, "1 entries that no Membrane file has"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(1, 1)}, {}, "1 entries that no Membrane file has"),
        ({"map.clip_l.down": None, "map.clip_l.up": None}, {}, "holds no erasure"),
    ],
)
def test_damaged_and_future_files_are_refused(tmp_path, tensors, metadata, message):
    with pytest.raises(UnknownFormat, match=message):
        load(write(tmp_path / "x.safetensors", tensors, **metadata))


def test_an_erasure_for_another_family_is_refused(tmp_path):
    path = save(realistic(), tmp_path / "x")
    same(realistic(), load(path, base=SD1.shapes()))
    with pytest.raises(WrongFamily, match="made for sd1, this model is sd2"):
        load(path, base=SD2.shapes())
    with pytest.raises(WrongFamily, match="width 64, this model's have 768"):
        load(save(realistic(64), tmp_path / "y"), base=SD1.shapes())
    shape = WeightDelta(KEY, down=torch.ones(1, 64), up=torch.ones(1280, 1))
    with pytest.raises(
        WrongFamily, match=r"changes .*mid_block.* of shape \(1280, 64\), where this model has \(1280, 768\)"
    ):
        load(save(Erasure(weight_deltas={KEY: shape}), tmp_path / "z"), base=SD1.shapes())


def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path):
    nan = MapFactor(torch.full((1, 4), float("nan")), torch.ones(4, 1))
    with pytest.raises(IllConditioned, match=r"map\.clip_l\.down holds NaN"):
        save(Erasure(maps={"clip_l": EmbeddingMap("clip_l", (nan,))}), tmp_path / "x")
    with pytest.raises(BadInput, match="changes nothing"):
        save(Erasure(), tmp_path / "x")
    with pytest.raises(BadInput, match="Unknown form 'zip'"):
        save(realistic(), tmp_path / "x", form="zip")
    strange = WeightDelta("unet.strange.weight", diff=torch.ones(2))
    with pytest.raises(BadInput, match=r"unet\.strange\.weight is no weight of a model that Membrane knows"):
        save(Erasure(weight_deltas={strange.name: strange}), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_description_names_everything_on_one_screen(tmp_path):
    text = describe(save(realistic(), tmp_path / "mickey 🦊"))
    for part in (
        "mickey 🦊.safetensors",
        "Membrane version 1, native form",
        "sd1 (text width: clip_l 768)",
        "uce",
        "Mickey Mouse (also: Steamboat Willie, a famous cartoon mouse, mickey) -> a cartoon character [character]",
        "preserves  Minnie Mouse",
        "lamb 0.5",
        "clip_l, width 768, rank 1, on kv",
        "condition 812.4",
        "fingerprint stored for clip_l",
    ):
        assert part in text
    assert len(text.splitlines()) <= 25 and str(tmp_path) not in text

"""LoRA export against an independent float64 loop: exactness, size, metadata, refusals."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from erasure_core.errors import BadInput, MembraneError, WrongFamily
from erasure_core.formats import describe, load, save
from erasure_core.keys import SD1, SDXL

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
K = f"unet.{BLOCK}.attn2.to_k.weight"
# diffusers names of SD1's cross-attention: (block, width)
SD1_BLOCKS = (
    [(f"down_blocks.{b}.attentions.{a}", 320 * 2**b) for b in (0, 1, 2) for a in (0, 1)]
    + [("mid_block.attentions.0", 1280)]
    + [(f"up_blocks.{b}.attentions.{a}", 1280 // 2 ** (b - 1)) for b in (1, 2, 3) for a in (0, 1, 2)]
)


def sd1_weights():
    """Random matrices in the shapes of SD1's cross-attention keys and values."""
    generator = torch.Generator().manual_seed(3)
    return {
        f"unet.{block}.transformer_blocks.0.attn2.to_{kv}.weight": torch.randn(width, 768, generator=generator) / 28
        for block, width in SD1_BLOCKS
        for kv in "kv"
    }


def erasure_of(width, rank, space="clip_l", scale=1.0, **fields):
    generator = torch.Generator().manual_seed(4)
    # solvers give down rows far smaller than the columns of up
    down, up = torch.randn(rank, width, generator=generator) * 1e-6, torch.randn(width, rank, generator=generator) * 30
    return Erasure(maps={space: EmbeddingMap(space, (MapFactor(down, up * scale),))}, base={"family": "sd1"}, **fields)


def relative(one, other):
    return float((one.double() - other).norm() / other.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_export_equals_the_map_in_every_matrix(tmp_path, dtype, tolerance):
    weights = sd1_weights()
    erasure = erasure_of(768, 3)
    factor = erasure.maps["clip_l"].factors[0]
    tensors = load_file(save(erasure, tmp_path / "x", form="lora", weights=weights, dtype=dtype))
    assert len(tensors) == 3 * 32 and {t.dtype for t in tensors.values()} == {dtype}
    edit = factor.up.double() @ factor.down.double()  # D Y, in float64 and with none of the exporter's code
    for name, weight in weights.items():
        stem = "lora_unet_" + name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        assert float(tensors[f"{stem}.alpha"]) == len(down) == 3
        assert relative(up.double() @ down.double(), weight.double() @ edit) < tolerance


@pytest.mark.parametrize(("applies", "count"), [("k", 16), ("v", 16), ("kv", 32)])
def test_export_keeps_to_keys_or_values(tmp_path, applies, count):
    erasure = erasure_of(768, 1, applies=applies)
    tensors = load_file(save(erasure, tmp_path / "x", form="lora", weights=sd1_weights()))
    ups = [key for key in tensors if key.endswith("lora_up.weight")]
    assert len(ups) == count and {key.split(".")[0][-1] for key in ups} == set(applies)


def test_rank_one_export_is_small_and_says_what_it_is(tmp_path):
    concept = {"target": "Mickey Mouse", "anchor": "", "aliases": ["mickey"], "kind": "character", "weight": 1.0}
    erasure = erasure_of(768, 1, recipe={"method": "uce", "concepts": [concept], "options": {"lamb": 0.5}})
    path = save(erasure, tmp_path / "x", form="lora", weights=sd1_weights(), dtype=torch.float16)
    assert path.stat().st_size <= 120_000
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert (metadata["ss_base_model_version"], metadata["ss_v2"], metadata["ss_network_dim"]) == ("sd_v1", "False", "1")
    assert json.loads(metadata["membrane.recipe"])["concepts"] == [concept]
    assert "prompts" not in metadata
    assert "Membrane version 1, LoRA form" in describe(path) and "32 of rank 1" in describe(path)


def test_export_of_a_product_of_factors(tmp_path):
    torch.manual_seed(5)
    factors = tuple(MapFactor(torch.randn(r, 768) / 28, torch.randn(768, r) / 28) for r in (2, 3))
    erasure = Erasure(maps={"clip_l": EmbeddingMap("clip_l", factors)}, base={"family": "sd1"})
    weights = {K: torch.randn(640, 768)}
    delta = load(save(erasure, tmp_path / "x", form="lora", weights=weights)).weight_deltas[K]
    matrix = torch.eye(768, dtype=torch.float64)
    for factor in factors:
        matrix = matrix + factor.up.double() @ factor.down.double() @ matrix
    assert relative(delta.dense(), weights[K].double() @ matrix - weights[K].double()) < 1e-5


def test_export_of_the_pooled_map_uses_the_label_embedding(tmp_path):
    torch.manual_seed(6)
    maps = {"sdxl_pooled": EmbeddingMap("sdxl_pooled", (MapFactor(torch.randn(2, 1280), torch.randn(1280, 2)),))}
    weight = torch.randn(1280, 2816)
    path = save(Erasure(maps=maps), tmp_path / "x", form="lora", weights={"unet.add_embedding.linear_1.weight": weight})
    tensors = load_file(path)
    parts = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(tensors) == {f"lora_unet_label_emb_0_0.{part}" for part in parts}
    down, up, _ = (tensors[f"lora_unet_label_emb_0_0.{part}"] for part in parts)
    assert down.shape == (2, 2816) and not down[:, 1280:].any()
    factor = maps["sdxl_pooled"].factors[0]
    expected = weight[:, :1280].double() @ (factor.up.double() @ factor.down.double())
    assert relative(up.double() @ down[:, :1280].double(), expected) < 1e-6
    assert list(load(path, base=SDXL.shapes()).weight_deltas) == ["unet.add_embedding.linear_1.weight"]


def test_scales_and_full_differences_are_folded_in(tmp_path):
    torch.manual_seed(7)
    conv = "unet.down_blocks.0.resnets.0.conv1.weight"
    deltas = {
        K: WeightDelta(K, down=torch.randn(2, 768), up=torch.randn(640, 2), scale=0.3),
        conv: WeightDelta(conv, down=torch.randn(4, 320, 3, 3), up=torch.randn(320, 4, 1, 1), scale=-2.0),
        "unet.conv_in.weight": WeightDelta("unet.conv_in.weight", diff=torch.randn(320, 4, 3, 3), scale=0.5),
        "unet.conv_in.bias": WeightDelta("unet.conv_in.bias", diff=torch.randn(320), scale=0.5),
    }
    erasure = Erasure(weight_deltas=deltas, base={"family": "sd1"}, gate={"phrases": ["a cat"]})
    path = save(erasure, tmp_path / "x", form="lora")
    tensors = load_file(path)
    assert float(tensors[f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_k.alpha"]) == 2
    assert torch.equal(tensors["lora_unet_conv_in.diff"], deltas["unet.conv_in.weight"].diff * 0.5)
    assert torch.equal(tensors["lora_unet_conv_in.diff_b"], deltas["unet.conv_in.bias"].diff * 0.5)
    again = load(path, base=SD1.shapes())
    for name, delta in deltas.items():
        assert again.weight_deltas[name].scale == 1.0
        assert relative(again.weight_deltas[name].dense(), delta.dense().double()) < 1e-6
    with safe_open(path, framework="pt") as stream:
        assert {key: stream.metadata()[key] for key in ("prompts", "rank", "alpha")} == {
            "prompts": "a cat",
            "rank": "4",
            "alpha": "4.0",
        }


def test_export_refusals(tmp_path):
    with pytest.raises(BadInput, match="needs that model"):
        save(erasure_of(768, 1), tmp_path / "x", form="lora")
    with pytest.raises(BadInput, match=r"float32 or float16, not torch\.float64"):
        save(erasure_of(768, 1), tmp_path / "x", form="lora", weights=sd1_weights(), dtype=torch.float64)
    with pytest.raises(WrongFamily, match="width 1024"):
        save(erasure_of(1024, 1), tmp_path / "x", form="lora", weights=sd1_weights())
    with pytest.raises(MembraneError, match="too large for it: save in fp32"):
        save(erasure_of(768, 1, scale=1e20), tmp_path / "x", form="lora", weights=sd1_weights(), dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []

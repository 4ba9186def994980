"""LoRA files for Flux under every published naming, from key lists that our writer has no part in."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from erasure_core.erasure import Erasure, WeightDelta
from erasure_core.errors import BadInput, UnknownFormat, WrongFamily
from erasure_core.formats import describe, load, save

W, INNER, RANK = 3072, 12288, 2
DOUBLE = "transformer.transformer_blocks.3.attn"
SINGLE = "transformer.single_transformer_blocks.5"
# EraseAnything's file: 76 tensors in bf16, no alpha
ERASE_ANYTHING = {
    f"transformer.transformer_blocks.{i}.attn.add_{x}_proj.lora_{ab}.weight": (8, W) if ab == "A" else (W, 8)
    for i in range(19)
    for x in "kq"
    for ab in "AB"
}
# a slider for Flux: rank 4, alpha 1, diffusers names behind the head of U-Nets
SLIDER = {
    "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": (4, W),
    "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight": (W, 4),
    "lora_unet_transformer_blocks_0_attn_to_q.alpha": (),
    "lora_unet_transformer_blocks_0_attn_add_v_proj.lora_down.weight": (4, W),
    "lora_unet_transformer_blocks_0_attn_add_v_proj.lora_up.weight": (W, 4),
    "lora_unet_transformer_blocks_0_attn_add_v_proj.alpha": (),
    "lora_unet_transformer_blocks_18_attn_to_out_0.lora_down.weight": (4, W),
    "lora_unet_transformer_blocks_18_attn_to_out_0.lora_up.weight": (W, 4),
    "lora_unet_transformer_blocks_18_attn_to_out_0.alpha": (),
    "lora_unet_single_transformer_blocks_37_attn_to_k.lora_down.weight": (4, W),
    "lora_unet_single_transformer_blocks_37_attn_to_k.lora_up.weight": (W, 4),
    "lora_unet_single_transformer_blocks_37_attn_to_k.alpha": (),
}
# kohya: the authors' names, with the text encoder
KOHYA = {
    "lora_unet_double_blocks_3_img_attn_qkv": (W, 3 * W),
    "lora_unet_double_blocks_3_txt_attn_qkv": (W, 3 * W),
    "lora_unet_double_blocks_3_img_attn_proj": (W, W),
    "lora_unet_double_blocks_3_img_mlp_0": (W, INNER),
    "lora_unet_double_blocks_3_txt_mlp_2": (INNER, W),
    "lora_unet_double_blocks_3_img_mod_lin": (W, 6 * W),
    "lora_unet_single_blocks_5_linear1": (W, 3 * W + INNER),
    "lora_unet_single_blocks_5_linear2": (W + INNER, W),
    "lora_unet_single_blocks_5_modulation_lin": (W, 3 * W),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "lora_te1_text_model_encoder_layers_11_mlp_fc1": (768, 3072),
}
PEFT = {
    "transformer.transformer_blocks.3.attn.to_q": (W, W),
    "transformer.transformer_blocks.3.attn.to_out.0": (W, W),
    "transformer.transformer_blocks.3.attn.to_add_out": (W, W),
    "transformer.transformer_blocks.3.ff_context.net.0.proj": (W, INNER),
    "transformer.single_transformer_blocks.5.attn.to_q": (W, W),
    "transformer.single_transformer_blocks.5.proj_mlp": (W, INNER),
    "transformer.single_transformer_blocks.5.proj_out": (W + INNER, W),
    "transformer.single_transformer_blocks.5.norm.linear": (W, 3 * W),
    "transformer.x_embedder": (64, W),
    "transformer.context_embedder": (4096, W),
    "transformer.norm_out.linear": (W, 2 * W),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (768, 768),
}
# where the rows of kohya's stacked matrices belong, as the authors' code splits its answers
ROWS = {
    "lora_unet_double_blocks_3_img_attn_qkv": [(f"{DOUBLE}.to_{x}", W) for x in "qkv"],
    "lora_unet_double_blocks_3_txt_attn_qkv": [(f"{DOUBLE}.add_{x}_proj", W) for x in "qkv"],
    "lora_unet_single_blocks_5_linear1": [
        *((f"{SINGLE}.attn.to_{x}", W) for x in "qkv"),
        (f"{SINGLE}.proj_mlp", INNER),
    ],
}


def file_of(path, shapes, dtype=torch.float32, alpha=1.0, metadata=None):
    """Random tensors; only a corner of each is drawn, because only equality matters."""
    torch.manual_seed(8)
    tensors = {}
    for key, shape in shapes.items():
        tensors[key] = torch.zeros(shape, dtype=dtype) if shape else torch.tensor(alpha, dtype=dtype)
        if shape:
            tensors[key].view(-1)[:: max(1, math.prod(shape) // 997)] = torch.randn(1, dtype=torch.float32).to(dtype)
            tensors[key][:: max(1, shape[0] // 9)] += torch.randn(shape[1]).to(dtype)
    save_file(tensors, path, metadata)
    return tensors


def kohya_file(path, modules, alpha):
    shapes = {}
    for stem, (before, width) in modules.items():
        shapes |= {f"{stem}.lora_down.weight": (RANK, before), f"{stem}.lora_up.weight": (width, RANK)}
        shapes |= {f"{stem}.alpha": ()}
    return file_of(path, shapes, alpha=alpha)


def test_erase_anything(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tensors = file_of(path, ERASE_ANYTHING, torch.bfloat16, metadata={"format": "pt"})
    assert len(tensors) == 76
    erasure = load(path)
    assert (erasure.recipe["method"], erasure.base["family"]) == ("eraseanything", "flux")
    assert len(erasure.weight_deltas) == 38 and erasure.diagnostics == {}
    delta = erasure.weight_deltas["transformer.transformer_blocks.18.attn.add_q_proj.weight"]
    key = "transformer.transformer_blocks.18.attn.add_q_proj.lora_{}.weight"
    assert delta.scale == 1.0 and delta.rank == 8
    assert torch.equal(delta.down, tensors[key.format("A")]) and torch.equal(delta.up, tensors[key.format("B")])
    assert "EraseAnything, a LoRA for Flux" in describe(path) and "family     flux (text width: t5 4096)" in describe(
        path
    )


def test_slider(tmp_path):
    tensors = file_of(tmp_path / "x.safetensors", SLIDER, torch.bfloat16)
    erasure = load(tmp_path / "x.safetensors")
    assert erasure.recipe["method"] == "slider" and len(erasure.weight_deltas) == 4
    assert "not at zero" in erasure.diagnostics["start"] and "unmatched" not in erasure.diagnostics
    names = {
        "transformer.transformer_blocks.0.attn.to_q.weight": "lora_unet_transformer_blocks_0_attn_to_q",
        "transformer.transformer_blocks.0.attn.add_v_proj.weight": "lora_unet_transformer_blocks_0_attn_add_v_proj",
        "transformer.transformer_blocks.18.attn.to_out.0.weight": "lora_unet_transformer_blocks_18_attn_to_out_0",
        "transformer.single_transformer_blocks.37.attn.to_k.weight": "lora_unet_single_transformer_blocks_37_attn_to_k",
    }
    for name, stem in names.items():
        delta = erasure.weight_deltas[name]
        assert delta.scale == 0.25 and torch.equal(delta.up, tensors[f"{stem}.lora_up.weight"])


def test_kohya_stacks_are_taken_apart(tmp_path):
    tensors = kohya_file(tmp_path / "x.safetensors", KOHYA, alpha=1.0)
    erasure = load(tmp_path / "x.safetensors")
    assert erasure.base["family"] == "flux" and erasure.diagnostics == {}
    assert len(erasure.weight_deltas) == 11 + 2 + 2 + 3
    for stem, parts in ROWS.items():
        whole, start = tensors[f"{stem}.lora_up.weight"], 0
        for name, length in parts:
            delta = erasure.weight_deltas[f"{name}.weight"]
            assert delta.scale == 0.5 and torch.equal(delta.down, tensors[f"{stem}.lora_down.weight"])
            assert torch.equal(delta.up, whole[start : start + length])
            start += length
        assert start == len(whole)
    text = erasure.weight_deltas["text_encoder.text_model.encoder.layers.11.mlp.fc1.weight"]
    assert text.shape == (3072, 768)


def test_peft_and_diffusers(tmp_path):
    shapes = {}
    for module, (before, width) in PEFT.items():
        shapes |= {f"{module}.lora_A.weight": (RANK, before), f"{module}.lora_B.weight": (width, RANK)}
    tensors = file_of(tmp_path / "x.safetensors", shapes)
    erasure = load(tmp_path / "x.safetensors")
    assert erasure.base["family"] == "flux" and erasure.diagnostics == {}
    assert erasure.weight_deltas.keys() == {f"{module}.weight" for module in PEFT}
    for module in PEFT:
        assert torch.equal(erasure.weight_deltas[f"{module}.weight"].up, tensors[f"{module}.lora_B.weight"])


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_dotted_names_of_the_authors(tmp_path, prefix):
    shapes = {
        f"{prefix}double_blocks.3.txt_attn.qkv.lora_A.weight": (RANK, W),
        f"{prefix}double_blocks.3.txt_attn.qkv.lora_B.weight": (3 * W, RANK),
        f"{prefix}single_blocks.5.linear1.diff_b": (3 * W + INNER,),
    }
    tensors = file_of(tmp_path / "x.safetensors", {k: s for k, s in shapes.items() if len(s) == 2})
    tensors[f"{prefix}single_blocks.5.linear1.diff_b"] = torch.arange(3.0 * W + INNER)
    save_file(tensors, tmp_path / "x.safetensors")
    erasure = load(tmp_path / "x.safetensors")
    up = tensors[f"{prefix}double_blocks.3.txt_attn.qkv.lora_B.weight"]
    assert torch.equal(erasure.weight_deltas[f"{DOUBLE}.add_k_proj.weight"].up, up[W : 2 * W])
    bias = erasure.weight_deltas[f"{SINGLE}.proj_mlp.bias"].diff
    assert bias.shape == (INNER,) and bias[0] == 3 * W


def test_xlabs(tmp_path):
    shapes = {
        "double_blocks.3.processor.qkv_lora1.down.weight": (RANK, W),
        "double_blocks.3.processor.qkv_lora1.up.weight": (3 * W, RANK),
        "double_blocks.3.processor.qkv_lora2.down.weight": (RANK, W),
        "double_blocks.3.processor.qkv_lora2.up.weight": (3 * W, RANK),
        "double_blocks.3.processor.proj_lora1.down.weight": (RANK, W),
        "double_blocks.3.processor.proj_lora1.up.weight": (W, RANK),
        "double_blocks.3.processor.proj_lora2.down.weight": (RANK, W),
        "double_blocks.3.processor.proj_lora2.up.weight": (W, RANK),
        "single_blocks.5.processor.qkv_lora.down.weight": (RANK, W),
        "single_blocks.5.processor.qkv_lora.up.weight": (3 * W, RANK),
        "single_blocks.5.processor.proj_lora.down.weight": (RANK, W + INNER),
        "single_blocks.5.processor.proj_lora.up.weight": (W, RANK),
    }
    tensors = file_of(tmp_path / "x.safetensors", shapes)
    erasure = load(tmp_path / "x.safetensors")
    assert erasure.base["family"] == "flux" and erasure.diagnostics == {}
    wanted = {
        f"{DOUBLE}.to_out.0": ("double_blocks.3.processor.proj_lora1", 0, W),
        f"{DOUBLE}.to_add_out": ("double_blocks.3.processor.proj_lora2", 0, W),
        f"{SINGLE}.proj_out": ("single_blocks.5.processor.proj_lora", 0, W),
    }
    for i, x in enumerate("qkv"):
        wanted[f"{DOUBLE}.to_{x}"] = ("double_blocks.3.processor.qkv_lora1", W * i, W)
        wanted[f"{DOUBLE}.add_{x}_proj"] = ("double_blocks.3.processor.qkv_lora2", W * i, W)
        wanted[f"{SINGLE}.attn.to_{x}"] = ("single_blocks.5.processor.qkv_lora", W * i, W)
    assert erasure.weight_deltas.keys() == {f"{name}.weight" for name in wanted}
    for name, (module, start, length) in wanted.items():
        delta = erasure.weight_deltas[f"{name}.weight"]
        assert torch.equal(delta.up, tensors[f"{module}.up.weight"][start : start + length])
        assert delta.scale == 1.0 and torch.equal(delta.down, tensors[f"{module}.down.weight"])


def test_a_stack_of_another_height_has_no_place(tmp_path):
    modules = {**KOHYA, "lora_unet_double_blocks_4_img_attn_qkv": (W, 2 * W)}
    kohya_file(tmp_path / "x.safetensors", modules, alpha=1.0)
    noted = load(tmp_path / "x.safetensors").diagnostics["unmatched"]
    assert noted.startswith("1 of 12 entries") and "double_blocks_4_img_attn_qkv" in noted


def test_a_transformer_of_another_width_is_refused(tmp_path):
    shapes = {k: tuple(1536 if n == W else n for n in s) for k, s in ERASE_ANYTHING.items()}
    file_of(tmp_path / "x.safetensors", shapes)
    with pytest.raises(WrongFamily, match=r"shape \(1536, 1536\), where flux has \(3072, 3072\)"):
        load(tmp_path / "x.safetensors")


def test_a_whole_flux_model_is_named(tmp_path):
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(9, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(UnknownFormat, match="whole weights of a Flux model"):
        load(tmp_path / "x.safetensors")


def test_native_file_gives_the_same_erasure_and_is_a_kohya_lora(tmp_path):
    kohya_file(tmp_path / "x.safetensors", KOHYA, alpha=1.0)
    erasure = load(tmp_path / "x.safetensors")
    again = load(save(erasure, tmp_path / "native"))
    assert again.base["family"] == "flux" and again.weight_deltas.keys() == erasure.weight_deltas.keys()
    for name, delta in erasure.weight_deltas.items():
        other = again.weight_deltas[name]
        assert other.scale == delta.scale and torch.equal(other.up, delta.up) and torch.equal(other.down, delta.down)
    keys = load_file(tmp_path / "native.safetensors").keys()
    assert "lora_transformer_transformer_blocks_3_attn_add_k_proj.lora_up.weight" in keys
    assert "lora_transformer_single_transformer_blocks_5_proj_mlp.alpha" in keys
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in keys


def test_lora_form(tmp_path):
    kohya_file(tmp_path / "x.safetensors", KOHYA, alpha=1.0)
    erasure = load(tmp_path / "x.safetensors")
    path = save(erasure, tmp_path / "lora", "lora")
    again = load(path)
    for name, delta in erasure.weight_deltas.items():
        rows = delta.up[::97].float() @ delta.down[:, ::97].float() * delta.scale
        other = again.weight_deltas[name]
        assert torch.allclose(other.up[::97] @ other.down[:, ::97] * other.scale, rows, rtol=1e-6, atol=1e-7)


def test_a_bias_that_hosts_would_leave_out_is_not_exported(tmp_path):
    name = f"{DOUBLE}.to_q.bias"
    erasure = Erasure(weight_deltas={name: WeightDelta(name, diff=torch.ones(W))}, base={"family": "flux"})
    with pytest.raises(BadInput, match=r"Hosts leave out changes of .*to_q\.bias"):
        save(erasure, tmp_path / "x", "lora")
    assert torch.equal(load(save(erasure, tmp_path / "y")).weight_deltas[name].diff, torch.ones(W))

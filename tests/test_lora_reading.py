"""Reading LoRA files under every published naming, from key lists that our writer has no part in."""

import json
import math
import pickle

import pytest
import torch
from safetensors.torch import save_file

from erasure_core.errors import NothingMatched, UnknownFormat, WrongFamily
from erasure_core.formats import describe, load
from erasure_core.keys import SD1, SD2, Family, UNetLayout

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
K = f"unet.{BLOCK}.attn2.to_k.weight"


def relative(one, other):
    return float((one.double() - other).norm() / other.norm())


# the ten keys of published SD1.4 membranes, with shapes
SPM_KEYS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (1, 320, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 1, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_proj_in.alpha": (),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (1, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj.lora_up.weight": (2560, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj.lora_down.weight": (1, 320),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2.lora_down.weight": (1, 1280),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2.lora_up.weight": (320, 1),
}
SPM_META = {"prompts": "Mickey Mouse, mickey", "rank": "1", "alpha": "1.0"}


def file_of(path, shapes, metadata=None, dtype=torch.float32, alpha=1.0):
    torch.manual_seed(8)
    tensors = {k: torch.randn(s, dtype=dtype) if s else torch.tensor(alpha, dtype=dtype) for k, s in shapes.items()}
    save_file(tensors, path, metadata)
    return tensors


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_spm_file(tmp_path, prefix, dtype):
    shapes = {prefix + key: shape for key, shape in SPM_KEYS.items()}
    file_of(tmp_path / "x.safetensors", shapes, SPM_META, dtype)
    erasure = load(tmp_path / "x.safetensors")
    assert len(erasure.weight_deltas) == 4 and {d.scale for d in erasure.weight_deltas.values()} == {1.0}
    assert erasure.weight_deltas["unet.down_blocks.0.attentions.0.proj_in.weight"].shape == (320, 320, 1, 1)
    assert erasure.gate["phrases"] == ["Mickey Mouse", "mickey"]
    assert erasure.recipe["method"] == "spm" and erasure.base["family"] == "sd1"
    assert erasure.diagnostics == {}


def test_ace_and_stripped_spm_files(tmp_path):
    path = tmp_path / "x.safetensors"
    linear = {key: shape for key, shape in SPM_KEYS.items() if "proj_in" not in key}
    file_of(path, {key: tuple(4 if n == 1 else n for n in shape) for key, shape in linear.items()}, SPM_META)
    assert load(path).recipe["method"] == "ace"
    assert load(path).weight_deltas[f"unet.{BLOCK.replace('blocks.1', 'blocks.0', 1)}.attn2.to_k.weight"].scale == 0.25
    file_of(path, SPM_KEYS)
    stripped = load(path)
    assert stripped.recipe["method"] == "spm" and "concept unknown: name the concept" in stripped.diagnostics["concept"]
    assert "SPM membrane" in describe(path)


def pair(stem, out, into, rank=4, alpha=True):
    shapes = {f"{stem}.lora_down.weight": (rank, into), f"{stem}.lora_up.weight": (out, rank)}
    return shapes | ({f"{stem}.alpha": ()} if alpha else {})


def test_sdxl_kohya_files_in_ldm_style(tmp_path):
    stems = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (640, 640, f"unet.{BLOCK}.attn1.to_q.weight"),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048, K),
        "lora_unet_output_blocks_5_1_proj_out": (640, 640, "unet.up_blocks.1.attentions.2.proj_out.weight"),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (
            *(768, 768),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight",
        ),
        "lora_te2_text_model_encoder_layers_31_mlp_fc2": (
            *(1280, 5120),
            "text_encoder_2.text_model.encoder.layers.31.mlp.fc2.weight",
        ),
    }
    shapes = {}
    for stem, (out, into, _) in stems.items():
        shapes |= pair(stem, out, into, alpha=stem != "lora_unet_output_blocks_5_1_proj_out")
    tensors = file_of(tmp_path / "x.safetensors", shapes, {"ss_network_dim": "4"}, alpha=2.0)
    erasure = load(tmp_path / "x.safetensors")
    assert erasure.base == {"family": "sdxl", "widths": {"sdxl_lg": 2048}}
    assert set(erasure.weight_deltas) == {name for _, _, name in stems.values()}
    assert {name: delta.scale for name, delta in erasure.weight_deltas.items()} == {
        name: 1.0 if "proj_out" in name else 0.5 for _, _, name in stems.values()
    }
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    expected = 0.5 * tensors[f"{stem}.lora_up.weight"] @ tensors[f"{stem}.lora_down.weight"]
    assert torch.allclose(erasure.weight_deltas[K].dense(), expected)


def test_convolutions_cp_decomposition_and_differences(tmp_path):
    conv, cp, point = (f"lora_unet_down_blocks_0_resnets_{i}_conv{j}" for i, j in ((0, 1), (0, 2), (1, 1)))
    shapes = {
        f"{conv}.lora_down.weight": (4, 320, 3, 3),
        f"{conv}.lora_up.weight": (320, 4, 1, 1),
        f"{cp}.lora_down.weight": (4, 320, 1, 1),
        f"{cp}.lora_mid.weight": (5, 4, 3, 3),
        f"{cp}.lora_up.weight": (320, 5, 1, 1),
        f"{point}.diff": (320, 320, 3, 3),
        f"{point}.diff_b": (320,),
        "lora_unet_down_blocks_0_attentions_0_norm.diff_b": (320,),
    }
    tensors = file_of(tmp_path / "x.safetensors", shapes)
    deltas = load(tmp_path / "x.safetensors").weight_deltas
    assert {name.removeprefix("unet.down_blocks.0.") for name in deltas} == {
        "resnets.0.conv1.weight",
        "resnets.0.conv2.weight",
        "resnets.1.conv1.weight",
        "resnets.1.conv1.bias",
        "attentions.0.norm.bias",
    }
    down, up = tensors[f"{conv}.lora_down.weight"].double(), tensors[f"{conv}.lora_up.weight"].double()
    expected = (up[:, :, 0, 0] @ down.reshape(4, -1)).reshape(320, 320, 3, 3)
    assert relative(deltas["unet.down_blocks.0.resnets.0.conv1.weight"].dense(), expected) < 1e-6
    down, mid, up = (tensors[f"{cp}.lora_{part}.weight"].double() for part in ("down", "mid", "up"))
    expected = torch.einsum("op,pqhw,qi->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    assert relative(deltas["unet.down_blocks.0.resnets.0.conv2.weight"].dense(), expected) < 1e-6
    assert torch.equal(deltas["unet.down_blocks.0.resnets.1.conv1.bias"].diff, tensors[f"{point}.diff_b"])


@pytest.mark.parametrize("family", [SD1, SD2])
def test_projections_fit_as_matrices_and_as_convolutions(tmp_path, family):
    stem, name = "lora_unet_mid_block_attentions_0_proj_in", "unet.mid_block.attentions.0.proj_in.weight"
    weight = family.shapes()[name]
    for kernel in ((), (1, 1)):
        shapes = {f"{stem}.lora_down.weight": (2, 1280, *kernel), f"{stem}.lora_up.weight": (1280, 2, *kernel)}
        file_of(tmp_path / "x.safetensors", shapes)
        delta = load(tmp_path / "x.safetensors", base=family.shapes()).weight_deltas[name]
        assert delta.shape == weight == tuple(delta.dense().shape)


def test_family_ties_are_told_and_width_decides(tmp_path):
    path = tmp_path / "x.safetensors"
    slider = pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320, 320)
    file_of(path, slider)
    assert load(path).diagnostics == {"family": "read as sd1; the entries fit sd2 as well"}
    file_of(path, slider | pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 320, 1024))
    assert load(path).base["family"] == "sd2" and load(path).diagnostics == {}


PEFT_NAMES = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 2048),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (640, 4),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight": (4, 640),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight": (640, 4),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.lora_A.weight": (4, 640),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.lora_B.weight": (5120, 4),
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": (4, 1280),
    "unet.mid_block.attentions.0.proj_in.lora_B.weight": (1280, 4),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": (4, 768),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight": (768, 4),
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc1.lora_A.weight": (4, 1280),
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc1.lora_B.weight": (5120, 4),
}
WHOLE = {
    K,
    f"unet.{BLOCK}.attn1.to_out.0.weight",
    f"unet.{BLOCK}.ff.net.0.proj.weight",
    "unet.mid_block.attentions.0.proj_in.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight",
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc1.weight",
}
RENAMINGS = {
    "as published": str,
    "lora.down": lambda key: key.replace("lora_A.", "lora.down.").replace("lora_B.", "lora.up."),
    "default adapter": lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    "wrapped": lambda key: key.replace("unet.", "unet.base_model.model.", 1),
    "compiled": lambda key: "_orig_mod." + key,
}  # fmt: skip


@pytest.mark.parametrize("renaming", RENAMINGS)
def test_peft_names_load_whole(tmp_path, renaming):
    """Attention keys without ``.processor.`` are the known trap: other loaders drop them without a word."""
    file_of(tmp_path / "x.safetensors", {RENAMINGS[renaming](key): shape for key, shape in PEFT_NAMES.items()})
    erasure = load(tmp_path / "x.safetensors")
    assert set(erasure.weight_deltas) == WHOLE and erasure.base["family"] == "sdxl"
    assert erasure.diagnostics == {} and {d.scale for d in erasure.weight_deltas.values()} == {1.0}


@pytest.mark.parametrize("root", ["", "unet."])
def test_attention_processor_names_of_old_diffusers(tmp_path, root):
    blocks = {"down_blocks.0.attentions.0": 320, "mid_block.attentions.0": 1280, "up_blocks.3.attentions.2": 320}
    shapes = {}
    for block, width in blocks.items():
        for kv in ("k", "v"):
            stem = f"{root}{block}.transformer_blocks.0.attn2.processor.to_{kv}_lora"
            shapes |= {f"{stem}.down.weight": (1, 768), f"{stem}.up.weight": (width, 1)}
        stem = f"{root}{block}.transformer_blocks.0.attn1.processor.to_out_lora"
        shapes |= {f"{stem}.down.weight": (1, width), f"{stem}.up.weight": (width, 1)}
    file_of(tmp_path / "x.safetensors", shapes)
    erasure = load(tmp_path / "x.safetensors")
    assert set(erasure.weight_deltas) == {
        f"unet.{block}.transformer_blocks.0.{part}.weight"
        for block in blocks
        for part in ("attn2.to_k", "attn2.to_v", "attn1.to_out.0")
    }
    assert erasure.diagnostics == {}


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 4}, (2.0, 1.0)),
        ({"unet.lora_alpha": 8, "unet.r": 4, "unet.use_rslora": True}, (4.0, 1.0)),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}, "text_encoder.lora_alpha": 1}, (0.5, 0.25)),
    ],
)
def test_scale_from_the_stored_adapter_settings(tmp_path, settings, scales):
    file_of(tmp_path / "x.safetensors", PEFT_NAMES, {"lora_adapter_metadata": json.dumps(settings)})
    deltas = load(tmp_path / "x.safetensors").weight_deltas
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight"
    assert (deltas[K].scale, deltas[text].scale) == scales


def test_scale_from_the_settings_file_of_peft(tmp_path):
    stem = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    file_of(tmp_path / "x.safetensors", {f"{stem}.lora_A.weight": (4, 2048), f"{stem}.lora_B.weight": (640, 4)})
    assert load(tmp_path / "x.safetensors").weight_deltas[K].scale == 1.0
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    assert load(tmp_path / "x.safetensors").weight_deltas[K].scale == 0.5


def test_partly_matched_is_one_line_and_unmatched_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    strange = pair("lora_unet_down_blocks_9_odd", 4, 4) | {"lora_unet_mid_block_resnets_0_conv1.alpha": ()}
    image = pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k_ip", 320, 768)
    file_of(path, SPM_KEYS | strange | image | {"step": (1,)})
    notes = load(path).diagnostics
    assert notes["unmatched"] == (
        "2 of 6 entries have no place in this family: lora_unet_down_blocks_9_odd, lora_unet_mid_block_resnets_0_conv1"
    )
    assert notes["ignored"] == "4 tensors that belong to no LoRA entry"
    assert "2 of 6 entries" in describe(path)
    file_of(path, strange)
    with pytest.raises(NothingMatched, match=r"None of the 2 entries of .* has a place in sd1 or sd2 or sdxl"):
        load(path)


def test_wrong_widths_name_the_key_and_both_shapes(tmp_path):
    path = tmp_path / "x.safetensors"
    file_of(path, {key: shape for key, shape in SPM_KEYS.items() if "attn2" in key}, SPM_META)
    with pytest.raises(WrongFamily, match=r"attn2_to_k changes a weight of shape \(320, 768\).* has \(320, 1024\)"):
        load(path, base=SD2.shapes())


TINY = UNetLayout((32, 64), ((1,), (0,)), 1, ((0, 0), (1, 1)), 24, False, 128)


def test_a_small_model_reads_its_own_files_when_it_is_given(tmp_path):
    family = Family("sd1", TINY, SD1.text)
    path, stem = tmp_path / "x.safetensors", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    file_of(path, pair(stem, 32, 24))
    with pytest.raises(WrongFamily, match="Load it together with the model it was made for"):
        load(path)
    assert list(load(path, base=family.shapes()).weight_deltas) == [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    ]
    ldm = "lora_unet_output_blocks_3_1_transformer_blocks_0_attn2_to_v"  # two ResNets per upward level here, not three
    file_of(path, pair(ldm, 32, 24))
    assert list(load(path, base=family.shapes()).weight_deltas) == [
        "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v.weight"
    ]


UNREAD = {
    "DoRA": (SPM_KEYS | {"lora_unet_down_blocks_0_attentions_0_proj_in.dora_scale": (320, 1)}, "is a DoRA"),
    "LoHa": ({"lora_unet_conv_in.hada_w1_a": (2, 2), "lora_unet_conv_in.hada_w1_b": (2, 2)}, r"is a LoHa .*plain LoRA"),
    "LoKr": ({"lora_unet_conv_in.lokr_w1": (2, 2)}, "is a LoKr"),
    "set beside others": (SPM_KEYS | {"lora_unet_conv_in.set_weight": (2, 2)}, "whole new weights"),
    "two adapters": (
        {"unet.conv_in.lora_A.one.weight": (1, 4), "unet.conv_in.lora_A.two.weight": (1, 4)},
        "several adapters",
    ),
    "bad alpha": ({**SPM_KEYS, "lora_unet_down_blocks_0_attentions_0_proj_in.alpha": (2,)}, "should be one number"),
    "ESD wrapper": ({"ft_modules_list.0.weight": (2, 2)}, r"ESD's wrapper file.*Export it again"),
    "embedding": ({"emb_params": (2, 7)}, "textual inversion"),
    "autoencoder": ({"encoder.conv_in.weight": (1,), "decoder.mid.x": (1,)}, "autoencoder"),
    "ControlNet": ({"controlnet_cond_embedding.conv_in.weight": (1,)}, "ControlNet"),
    "other": ({"linear.weight": (2, 2)}, r"holds 1 tensors that Membrane does not know \(first: linear.weight\)"),
    "nothing": ({}, "holds 0 tensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREAD)
def test_known_kinds_that_are_not_read_are_named(tmp_path, kind):
    shapes, message = UNREAD[kind]
    path = tmp_path / "x.safetensors"
    small = {key: torch.zeros(() if math.prod(shape) > 1e6 else shape) for key, shape in shapes.items()}
    save_file(small, path)
    with pytest.raises(UnknownFormat, match=message) as caught:
        load(path)
    assert str(caught.value).startswith("x.safetensors ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "transformer.transformer_blocks.19.attn.add_k_proj.lora_A.weight",
        "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight",
        "lora_unet_double_blocks_19_img_attn_proj.lora_down.weight",
        "lora_unet_joint_blocks_0_x_block_attn_proj.lora_down.weight",
    ],
)
def test_other_networks_are_named(tmp_path, key):
    file_of(tmp_path / "x.safetensors", {key: (4, 8)})
    with pytest.raises(
        WrongFamily, match=r"This is for (Stable Diffusion 3|Flux 2).* does not handle\. .*with Flux \("
    ):
        load(tmp_path / "x.safetensors")


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "x.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UnknownFormat, match="could run any program"):
        load(tmp_path / "x.pt")
    assert not (tmp_path / "sprung").exists()

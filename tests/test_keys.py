"""Names against key lists printed in papers' repositories and documentation, and against real networks' parameters."""

import math

import pytest
import torch

from erasure_core.errors import UnknownFormat, WrongFamily
from erasure_core.keys import (
    FAMILIES,
    SD1,
    SD2,
    SDXL,
    family_of,
    kohya_stem,
    ldm_names,
    module_table,
    name_of_stem,
    plain_module,
    stem_table,
)

# kohya stems of published SD1.4 and SDXL membranes -> shapes (out, in) of the weight they belong to
SD1_STEMS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": (320, 320),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj": (2560, 320),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2": (320, 1280),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v": (1280, 768),
    "lora_unet_down_blocks_0_resnets_0_conv1": (320, 320, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj": (320, 1280),
    "lora_unet_down_blocks_0_downsamplers_0_conv": (320, 320, 3, 3),
    "lora_unet_mid_block_resnets_1_conv2": (1280, 1280, 3, 3),
    "lora_unet_up_blocks_1_resnets_0_conv_shortcut": (1280, 2560, 1, 1),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
SDXL_STEMS = {
    "lora_unet_down_blocks_1_attentions_0_proj_in": (640, 640),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (640, 2048),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_ff_net_0_proj": (5120, 640),
    "lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_attn2_to_v": (1280, 2048),
    "lora_unet_mid_block_attentions_0_transformer_blocks_9_ff_net_2": (1280, 5120),
    "lora_unet_up_blocks_0_attentions_2_transformer_blocks_9_attn1_to_out_0": (1280, 1280),
    "lora_unet_up_blocks_1_attentions_2_proj_out": (640, 640),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (640, 640),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048),
    "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj": (10240, 1280),
    "lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_v": (1280, 2048),
    "lora_unet_output_blocks_5_1_proj_out": (640, 640),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "lora_te1_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
    "lora_te2_text_model_encoder_layers_0_self_attn_k_proj": (1280, 1280),
    "lora_te2_text_model_encoder_layers_31_mlp_fc2": (1280, 5120),
}
# LDM names of cross-attention: SD1 has it in input blocks 1,2,4,5,7,8, the middle, output blocks 3..11
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
SD1_INPUT, SD1_OUTPUT = (1, 2, 4, 5, 7, 8), range(3, 12)


@pytest.mark.parametrize(("family", "stems"), [(SD1, SD1_STEMS), (SDXL, SDXL_STEMS)], ids=["sd1", "sdxl"])
def test_published_stems_find_their_weight(family, stems):
    shapes = family.shapes()
    assert {stem: shapes[stem_table(family)[stem]] for stem in stems} == stems


def test_scopes_have_their_published_sizes():
    for family, keys, millions in ((SD1, 686, 859.5), (SD2, 686, 865.9), (SDXL, 1680, 2567.5)):
        shapes = family.denoiser.shapes()
        assert len(shapes) == keys
        assert round(sum(map(math.prod, shapes.values())) / 1e6, 1) == millions
    for family, count, parameters in ((SD1, 32, 19_169_280), (SDXL, 140, 340_787_200)):
        edited = [s for n, s in family.shapes().items() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
        assert (len(edited), sum(map(math.prod, edited))) == (count, parameters)


@pytest.mark.parametrize(
    ("family", "modules", "parameters"), [(SD1, 192, 423_936), (SD2, 192, 432_128), (SDXL, 722, 2_659_840)]
)
def test_rank_one_adapters_on_all_transformers_have_their_published_size(family, modules, parameters):
    scope = [s for n, s in family.shapes().items() if ".attentions." in n and len(s) > 1]
    assert (len(scope), sum(s[0] + math.prod(s[1:]) for s in scope)) == (modules, parameters)


def test_cross_attention_in_ldm_names():
    found = {n for n in ldm_names(SD1.denoiser).values() if n.endswith("attn2.to_k.weight")}
    tail = "transformer_blocks.0.attn2.to_k.weight"
    assert found == (
        {f"input_blocks.{i}.1.{tail}" for i in SD1_INPUT}
        | {f"middle_block.1.{tail}"}
        | {f"output_blocks.{i}.1.{tail}" for i in SD1_OUTPUT}
    )


@pytest.mark.parametrize(
    ("name", "ldm"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("down_blocks.1.resnets.1.conv_shortcut.weight", None),
        ("down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("down_blocks.2.downsamplers.0.conv.bias", "input_blocks.9.0.op.bias"),
        ("mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        ("mid_block.attentions.0.norm.weight", "middle_block.1.norm.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.3.resnets.2.norm2.weight", "output_blocks.11.0.out_layers.0.weight"),
        ("time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("conv_norm_out.weight", "out.0.weight"),
        ("conv_out.weight", "out.2.weight"),
    ],
)
def test_ldm_names_of_everything_else(name, ldm):
    assert ldm_names(SD1.denoiser).get(name) == ldm


def test_sdxl_label_embedding():
    assert ldm_names(SDXL.denoiser)["add_embedding.linear_1.weight"] == "label_emb.0.0.weight"
    assert ldm_names(SDXL.denoiser)["add_embedding.linear_2.bias"] == "label_emb.0.2.bias"
    assert kohya_stem("unet.add_embedding.linear_1.weight", "sdxl") == "lora_unet_label_emb_0_0"
    assert SDXL.shapes()["unet.add_embedding.linear_1.weight"] == (1280, 2816)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_weight_has_one_name_in_each_convention(family):
    shapes = family.shapes()
    weights = [name for name in shapes if name.endswith(".weight")]
    stems = {kohya_stem(name, family.name) for name in weights}
    assert len(stems) == len(weights)
    for name in weights:
        stem = kohya_stem(name, family.name)
        assert stem_table(family)[stem] == name == name_of_stem(stem)
        assert module_table(family)[plain_module(name.removesuffix(".weight"))] == name
    assert len({(s.key, s.start) for s in family.host_slots().values()}) == len(shapes)
    assert len({(s.key, s.start) for s in family.checkpoint_slots().values()}) == len(shapes)


def test_fused_matrices_of_the_second_text_encoder():
    slots = SDXL.checkpoint_slots()
    layer = "text_encoder_2.text_model.encoder.layers.5"
    block = "conditioner.embedders.1.model.transformer.resblocks.5"
    value = slots[f"{layer}.self_attn.v_proj.weight"]
    assert (value.key, value.start, value.length) == (f"{block}.attn.in_proj_weight", 2560, 1280)
    bias = slots[f"{layer}.self_attn.k_proj.bias"]
    assert (bias.key, bias.start, bias.length) == (f"{block}.attn.in_proj_bias", 1280, 1280)
    assert slots[f"{layer}.mlp.fc1.weight"].key == f"{block}.mlp.c_fc.weight"
    assert slots[f"{layer}.mlp.fc2.bias"].key == f"{block}.mlp.c_proj.bias"
    assert slots["text_encoder_2.text_projection.weight"].transposed
    first = slots["text_encoder.text_model.encoder.layers.0.mlp.fc1.weight"]
    assert first.key == "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
@pytest.mark.parametrize("prefix", ["{}.", "", "module.", "_orig_mod."])
def test_family_by_diffusers_names(family, prefix):
    shapes = {prefix.format(family.root) + name: shape for name, shape in family.denoiser.shapes().items()}
    assert family_of(shapes) == family


@pytest.mark.parametrize("family", (SD1, SD2, SDXL), ids=lambda family: family.name)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_family_by_ldm_names(family, prefix):
    names = ldm_names(family.denoiser)
    shapes = {prefix + names[name]: shape for name, shape in family.denoiser.shapes().items()}
    shapes["first_stage_model.encoder.conv_in.weight"] = (128, 3, 3, 3)
    assert family_of(shapes) == family


def test_incomplete_and_foreign_networks_are_refused():
    shapes = dict(SD1.denoiser.shapes())
    del shapes["up_blocks.2.resnets.1.conv2.weight"]
    with pytest.raises(UnknownFormat, match=r"lacks .* up_blocks\.2\.resnets\.\d\.conv"):
        family_of(shapes)
    with pytest.raises(UnknownFormat, match="no cross-attention"):
        family_of({"classifier.weight": (10, 3)})
    others = {"double_blocks.19.img_attn.qkv.weight": "HunyuanVideo", "joint_blocks.0.x": "Stable Diffusion 3"}
    for key, network in others.items():
        with pytest.raises(WrongFamily, match=network):
            family_of({f"model.diffusion_model.{key}": (3, 3)})


def tiny(**changes):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    config = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 24,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**(config | changes))


LIKE = {
    "sd1": {"in_channels": 8, "out_channels": 8},
    "sd2": {"use_linear_projection": True, "layers_per_block": 2},
    "sdxl": {
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 3),
    },
}


@pytest.mark.parametrize("name", LIKE)
def test_every_parameter_of_a_real_network_is_covered(name):
    unet = tiny(**LIKE[name])
    real = {n: tuple(p.shape) for n, p in unet.named_parameters()}
    family = family_of({f"unet.{n}": p for n, p in unet.named_parameters()})
    assert family.name == name
    assert family.denoiser.shapes() == real
    names = ldm_names(family.denoiser)
    assert set(names) == set(real) and len(set(names.values())) == len(real)
    assert family_of({f"diffusion_model.{names[n]}": shape for n, shape in real.items()}).denoiser == family.denoiser


def test_text_encoder_of_a_model_is_measured():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=24, intermediate_size=48, num_attention_heads=2, num_hidden_layers=3, vocab_size=99
    )
    parameters = dict(transformers.CLIPTextModel(config).named_parameters())
    text = {f"text_encoder.text_model.{n.removeprefix('text_model.')}": tuple(p.shape) for n, p in parameters.items()}
    unet = {f"unet.{n}": tuple(p.shape) for n, p in tiny().named_parameters()}
    assert family_of(unet | text).shapes() == unet | text


@pytest.mark.parametrize(
    ("module", "plain"),
    [
        (f"unet.{BLOCK}.attn2.processor.to_k", f"unet.{BLOCK}.attn2.to_k"),
        (f"{BLOCK}.attn1.processor.to_out", f"{BLOCK}.attn1.to_out.0"),
        ("base_model.model.mid_block.attentions.0.proj_in", "mid_block.attentions.0.proj_in"),
        ("unet.base_model.model.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_in"),
        ("_orig_mod.conv_in", "conv_in"),
        ("module.unet.conv_in", "unet.conv_in"),
    ],
)
def test_wrappers_of_dotted_names_fall_away(module, plain):
    assert plain_module(module) == plain


@pytest.mark.parametrize(
    "stem", ["lora_unet_input_blocks_4_1_proj_in", "lora_unet_double_blocks_0_x", "lora_te9_x", ""]
)
def test_a_stem_that_needs_a_model_is_not_guessed(stem):
    assert name_of_stem(stem) is None

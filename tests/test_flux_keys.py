"""Names of Flux against a real network's parameters and against the rows that its authors' code stacks."""

import math

import pytest

from erasure_core.errors import UnknownFormat, WrongFamily
from erasure_core.keys import FLUX, family_of, kohya_stem, module_table, name_of_stem, stacked_table, stem_table

W, INNER = 3072, 12288
# names of one double and one single block in the authors' code with what is stacked in each, by diffusers names
STACKED = {
    "double_blocks.7.img_attn.qkv.weight": [f"transformer_blocks.7.attn.to_{x}.weight" for x in "qkv"],
    "double_blocks.18.txt_attn.qkv.bias": [f"transformer_blocks.18.attn.add_{x}_proj.bias" for x in "qkv"],
    "single_blocks.37.linear1.weight": [
        *(f"single_transformer_blocks.37.attn.to_{x}.weight" for x in "qkv"),
        "single_transformer_blocks.37.proj_mlp.weight",
    ],
}
WHOLE = {
    "img_in.weight": "x_embedder.weight",
    "txt_in.bias": "context_embedder.bias",
    "time_in.in_layer.weight": "time_text_embed.timestep_embedder.linear_1.weight",
    "guidance_in.out_layer.weight": "time_text_embed.guidance_embedder.linear_2.weight",
    "vector_in.in_layer.weight": "time_text_embed.text_embedder.linear_1.weight",
    "double_blocks.0.img_mod.lin.weight": "transformer_blocks.0.norm1.linear.weight",
    "double_blocks.0.txt_mod.lin.weight": "transformer_blocks.0.norm1_context.linear.weight",
    "double_blocks.0.img_attn.proj.weight": "transformer_blocks.0.attn.to_out.0.weight",
    "double_blocks.0.txt_attn.proj.weight": "transformer_blocks.0.attn.to_add_out.weight",
    "double_blocks.0.txt_attn.norm.key_norm.scale": "transformer_blocks.0.attn.norm_added_k.weight",
    "double_blocks.0.img_mlp.0.weight": "transformer_blocks.0.ff.net.0.proj.weight",
    "double_blocks.0.txt_mlp.2.bias": "transformer_blocks.0.ff_context.net.2.bias",
    "single_blocks.0.modulation.lin.weight": "single_transformer_blocks.0.norm.linear.weight",
    "single_blocks.0.linear2.weight": "single_transformer_blocks.0.proj_out.weight",
    "single_blocks.0.norm.query_norm.scale": "single_transformer_blocks.0.attn.norm_q.weight",
    "final_layer.linear.weight": "proj_out.weight",
    "final_layer.adaLN_modulation.1.weight": "norm_out.linear.weight",
}
HOST = "diffusion_model."


def test_flux_dev_has_its_published_size():
    assert round(sum(map(math.prod, FLUX.denoiser.shapes().values())) / 1e9, 3) == 11.901
    shapes = FLUX.shapes()
    assert shapes["transformer.context_embedder.weight"] == (W, 4096)
    assert shapes["transformer.time_text_embed.text_embedder.linear_1.weight"] == (W, 768)
    assert shapes["transformer.single_transformer_blocks.37.proj_out.weight"] == (W, W + INNER)
    assert shapes["text_encoder.text_model.encoder.layers.11.mlp.fc1.weight"] == (3072, 768)


def test_every_weight_of_the_authors_is_covered_once():
    rows, wanted = {}, {}
    for ours, slot in FLUX.denoiser_slots().items():
        length = FLUX.denoiser.shapes()[ours][0]
        assert slot.length in (None, length)
        rows.setdefault(slot.key, []).append((slot.start or 0, length))
    for key, parts in rows.items():
        ends = [start + length for start, length in sorted(parts)]
        assert [start for start, _ in sorted(parts)] == [0, *ends[:-1]], key  # no gap, no overlap
        wanted[key] = ends[-1]
    assert len(wanted) == 2 * (1 + 1 + 2 + 2 + 2 + 1 + 1) + 19 * 24 + 38 * 8  # 780, as published
    assert wanted["double_blocks.0.txt_attn.qkv.weight"] == 3 * W
    assert wanted["single_blocks.0.linear1.weight"] == 3 * W + INNER


@pytest.mark.parametrize("theirs", STACKED)
def test_stacked_rows(theirs):
    slots = FLUX.denoiser_slots()
    found = sorted((slot.start, slot.length, ours) for ours, slot in slots.items() if slot.key == theirs)
    lengths = [W, W, W, INNER]
    assert found == [(W * i, lengths[i], name) for i, name in enumerate(STACKED[theirs])]


def test_whole_matrices():
    slots = FLUX.denoiser_slots()
    assert {slots[ours].key: ours for ours in WHOLE.values()} == WHOLE
    swapped = {ours for ours, slot in slots.items() if slot.swapped}
    assert swapped == {"norm_out.linear.weight", "norm_out.linear.bias"}


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_every_parameter_of_a_real_network_is_covered(guidance):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    network = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    real = {name: tuple(p.shape) for name, p in network.named_parameters()}
    for prefix in ("transformer.", "", "module."):
        family = family_of({prefix + name: shape for name, shape in real.items()})
        assert family.name == "flux" and family.root == "transformer"
        assert family.denoiser.shapes() == real
        assert (family.denoiser.double, family.denoiser.single, family.context) == (2, 3, 24)
    theirs = {}
    for ours, slot in family.denoiser_slots().items():
        rest = real[ours][1:]
        theirs[slot.key] = (theirs.get(slot.key, (0,))[0] + real[ours][0], *rest)
    for prefix in ("model.diffusion_model.", HOST, ""):
        again = family_of({prefix + name: shape for name, shape in theirs.items()})
        assert again.denoiser == family.denoiser
    newer = {name.replace("_norm.scale", "_norm.weight"): shape for name, shape in theirs.items()}
    assert family_of(newer).denoiser_slots()["transformer_blocks.0.attn.norm_q.weight"].key in newer


def test_stems_and_modules():
    shapes = FLUX.shapes()
    weights = [name for name in shapes if name.endswith(".weight")]
    for name in weights:
        stem = kohya_stem(name, "flux")
        assert stem_table(FLUX)[stem] == name == name_of_stem(stem)
        assert module_table(FLUX)[name.removesuffix(".weight")] == name
    assert kohya_stem("transformer.transformer_blocks.0.attn.to_out.0.weight", "flux") == (
        "lora_transformer_transformer_blocks_0_attn_to_out_0"
    )
    assert kohya_stem("text_encoder.text_model.encoder.layers.0.mlp.fc1.weight", "flux") == (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    )
    one = "transformer.single_transformer_blocks.0.proj_mlp.weight"
    for stem in ("lora_transformer", "lora_unet", "lycoris"):
        assert stem_table(FLUX)[f"{stem}_single_transformer_blocks_0_proj_mlp"] == one
    assert stem_table(FLUX)["lora_unet_double_blocks_0_img_mlp_0"].endswith("blocks.0.ff.net.0.proj.weight")
    assert list(stacked_table(FLUX)["lora_unet_single_blocks_0_linear1"])[-1] == one
    assert "lora_unet_single_blocks_0_linear1" not in stem_table(FLUX)


@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("distilled_guidance_layer.in_proj.weight", "Chroma"),
        ("double_stream_modulation_img.lin.weight", "Flux 2"),
        ("txt_in.individual_token_refiner.blocks.0.mlp.0.weight", "HunyuanVideo"),
        ("double_blocks.19.img_attn.qkv.weight", "HunyuanVideo"),
        ("pos_embed.proj.weight", "Stable Diffusion 3"),
    ],
)
def test_relatives_are_refused_by_name(key, network):
    shapes = {HOST + slot.key: (1, 1) for slot in FLUX.denoiser_slots().values()}
    with pytest.raises(WrongFamily, match=f"This is for .*{network}.* does not handle"):
        family_of({**shapes, HOST + key: (8, 8)})


def test_an_incomplete_flux_is_refused():
    shapes = {f"transformer.{name}": shape for name, shape in FLUX.denoiser.shapes().items()}
    del shapes["transformer.single_transformer_blocks.3.attn.to_v.weight"]
    with pytest.raises(UnknownFormat, match=r"lacks 1 of .* single_transformer_blocks\.3\.attn\.to_v"):
        family_of(shapes)
    del shapes["transformer.context_embedder.weight"]
    with pytest.raises(UnknownFormat, match=r"lacks the weight context_embedder\.weight"):
        family_of(shapes)

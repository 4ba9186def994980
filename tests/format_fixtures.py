"""Files of every published format as literal keys and shapes, and a writer that needs no room for their numbers."""

import json
import math

import torch

DOWN_UP = (("down_blocks.0", 2, 320), ("down_blocks.1", 2, 640), ("down_blocks.2", 2, 1280))
SD1_TRANSFORMERS = {
    **{f"{block}.attentions.{a}": (width, 1) for block, count, width in DOWN_UP for a in range(count)},
    "mid_block.attentions.0": (1280, 1),
    **{f"up_blocks.1.attentions.{a}": (1280, 1) for a in range(3)},
    **{f"up_blocks.2.attentions.{a}": (640, 1) for a in range(3)},
    **{f"up_blocks.3.attentions.{a}": (320, 1) for a in range(3)},
}  # 16 of depth 1
SDXL_TRANSFORMERS = {
    **{f"down_blocks.1.attentions.{a}": (640, 2) for a in range(2)},
    **{f"down_blocks.2.attentions.{a}": (1280, 10) for a in range(2)},
    "mid_block.attentions.0": (1280, 10),
    **{f"up_blocks.0.attentions.{a}": (1280, 10) for a in range(3)},
    **{f"up_blocks.1.attentions.{a}": (640, 2) for a in range(3)},
}  # 11 with 70 blocks


def cross_attention(transformers, context, parts=("to_q", "to_k", "to_v", "to_out.0")):
    """ESD-x: all tensors of attn2 (80 for SD1, 350 for SDXL); keys and values alone (32, 140) with two parts."""
    found = {}
    for name, (width, depth) in transformers.items():
        for t in range(depth):
            stem = f"{name}.transformer_blocks.{t}.attn2"
            for part in parts:
                found[f"{stem}.{part}.weight"] = (width, context if part in ("to_k", "to_v") else width)
            if "to_out.0" in parts:
                found[f"{stem}.to_out.0.bias"] = (width,)
    return found


KV = ("to_k", "to_v")
ESD_SD1, ESD_SDXL = cross_attention(SD1_TRANSFORMERS, 768), cross_attention(SDXL_TRANSFORMERS, 2048)
ESD_STRICT_SD1 = cross_attention(SD1_TRANSFORMERS, 768, KV)
TRIO = {"prompts": "Mickey Mouse", "rank": "1", "alpha": "1.0"}


def lora(stem, out, into, rank, kernel=(), alpha=True):
    """One kohya module; of a convolution the down part has the kernel and the up part is 1x1."""
    shapes = {
        f"{stem}.lora_down.weight": (rank, into, *kernel),
        f"{stem}.lora_up.weight": (out, rank, *(1 for _ in kernel)),
    }
    return shapes | ({f"{stem}.alpha": ()} if alpha else {})


D0, BLOCK = "lora_unet_down_blocks_0_attentions_0", "transformer_blocks_0"
SPM_SD1 = (
    lora(f"{D0}_proj_in", 320, 320, 1, (1, 1))
    | lora(f"{D0}_{BLOCK}_attn1_to_q", 320, 320, 1)
    | lora(f"{D0}_{BLOCK}_attn1_to_out_0", 320, 320, 1)
    | lora(f"{D0}_{BLOCK}_attn2_to_k", 320, 768, 1)
    | lora(f"{D0}_{BLOCK}_ff_net_0_proj", 2560, 320, 1)
    | lora(f"{D0}_{BLOCK}_ff_net_2", 320, 1280, 1)
    | lora("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 1280, 768, 1)
)
D1 = "lora_unet_down_blocks_1_attentions_0"
SPM_SDXL = (
    lora(f"{D1}_proj_in", 640, 640, 1)
    | lora(f"{D1}_{BLOCK}_attn1_to_q", 640, 640, 1)
    | lora(f"{D1}_{BLOCK}_attn2_to_k", 640, 2048, 1)
    | lora(f"{D1}_transformer_blocks_1_ff_net_0_proj", 5120, 640, 1)
    | lora("lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_attn2_to_v", 1280, 2048, 1)
    | lora("lora_unet_mid_block_attentions_0_transformer_blocks_9_ff_net_2", 1280, 5120, 1)
    | lora("lora_unet_up_blocks_0_attentions_2_transformer_blocks_9_attn1_to_out_0", 1280, 1280, 1)
    | lora("lora_unet_up_blocks_1_attentions_2_proj_out", 640, 640, 1)
)
ACE_SD1 = (
    lora(f"{D0}_proj_in", 320, 320, 4, (1, 1))
    | lora(f"{D0}_{BLOCK}_attn1_to_q", 320, 320, 4)
    | lora(f"{D0}_{BLOCK}_attn2_to_k", 320, 768, 4)
)
SLIDER_SD1 = (
    lora(f"{D0}_{BLOCK}_attn1_to_q", 320, 320, 4)
    | lora(f"{D0}_{BLOCK}_attn1_to_out_0", 320, 320, 4)
    | lora("lora_unet_down_blocks_0_resnets_0_conv1", 320, 320, 4, (3, 3))
    | lora("lora_unet_down_blocks_0_resnets_0_time_emb_proj", 320, 1280, 4)
    | lora("lora_unet_down_blocks_0_downsamplers_0_conv", 320, 320, 4, (3, 3))
    | lora("lora_unet_mid_block_resnets_1_conv2", 1280, 1280, 4, (3, 3))
    | lora("lora_unet_up_blocks_1_resnets_0_conv_shortcut", 1280, 2560, 4, (1, 1))
)
SLIDER_SDXL = lora(f"{D1}_{BLOCK}_attn1_to_q", 640, 640, 4) | lora(
    "lora_unet_down_blocks_0_resnets_0_conv1", 320, 320, 4, (3, 3)
)
FLUX_SLIDER = lora("lora_unet_transformer_blocks_0_attn_to_q", 3072, 3072, 4) | lora(
    "lora_unet_single_transformer_blocks_0_attn_to_q", 3072, 3072, 4
)
KOHYA_SDXL = (
    lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, 640, 8)
    | lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048, 8)
    | lora("lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj", 10240, 1280, 8)
    | lora("lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_v", 1280, 2048, 8)
    | lora("lora_unet_output_blocks_5_1_proj_out", 640, 640, 8)
    | lora("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, 768, 8)
    | lora("lora_te1_text_model_encoder_layers_11_mlp_fc1", 3072, 768, 8)
    | lora("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", 1280, 1280, 8)
    | lora("lora_te2_text_model_encoder_layers_31_mlp_fc2", 1280, 5120, 8)
)
LECO_SD1 = lora(f"{D0}_{BLOCK}_attn1_to_q", 320, 320, 4) | lora(f"{D0}_{BLOCK}_attn2_to_k", 320, 768, 4)
ERASE_ANYTHING = {
    f"transformer.transformer_blocks.{n}.attn.add_{side}_proj.lora_{part}.weight": shape
    for n in range(19)
    for side in "qk"
    for part, shape in (("A", (8, 3072)), ("B", (3072, 8)))
}  # 76 tensors
MACE_LORA = {}
for _place in (
    *("down_blocks.0.attentions.0", "down_blocks.1.attentions.1", "mid_block.attentions.0"),
    *("up_blocks.1.attentions.0", "up_blocks.3.attentions.2"),
):
    for _side in "kv":
        _stem = f"{_place}.transformer_blocks.0.attn2.processor.to_{_side}_lora"
        MACE_LORA |= {f"{_stem}.down.weight": (1, 768), f"{_stem}.up.weight": (SD1_TRANSFORMERS[_place][0], 1)}
PEFT_SDXL = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (640, 8),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight": (8, 640),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight": (640, 8),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.lora_A.weight": (8, 640),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.lora_B.weight": (5120, 8),
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": (8, 1280),
    "unet.mid_block.attentions.0.proj_in.lora_B.weight": (1280, 8),
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc1.lora_A.weight": (8, 1280),
    "text_encoder_2.text_model.encoder.layers.31.mlp.fc1.lora_B.weight": (5120, 8),
}
DIFF_SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.diff": (320, 768),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0.diff": (320, 320),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0.diff_b": (320,),
}
DIFF_COMFY = {
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.diff": (320, 768),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.diff_b": (320,),
}
SET_WEIGHT = {"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.set_weight": (320, 768)}
CA_CKPT = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn2.to_v.weight": (320, 768),
}
UNET_SD1 = {
    "conv_in.weight": (320, 4, 3, 3),
    "conv_in.bias": (320,),
    "time_embedding.linear_1.weight": (1280, 320),
    "time_embedding.linear_1.bias": (1280,),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
    "up_blocks.1.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
    "conv_norm_out.weight": (320,),
    "conv_out.weight": (4, 320, 3, 3),
}
CHECKPOINT_SD1 = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
    "model.diffusion_model.out.0.weight": (320,),
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
}
_LAYER = {
    **{f"self_attn.{part}_proj.weight": (768, 768) for part in ("q", "k", "v", "out")},
    "mlp.fc1.weight": (3072, 768),
    "mlp.fc2.weight": (768, 3072),
    "layer_norm1.weight": (768,),
}
TEXT_MODEL = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.embeddings.position_embedding.weight": (77, 768),
    **{f"text_model.encoder.layers.0.{name}": shape for name, shape in _LAYER.items()},
    "text_model.final_layer_norm.weight": (768,),
}
ADV_UNLEARN = {
    **{f"text_encoder.{name}": shape for name, shape in TEXT_MODEL.items()},
    **{f"encoder.layers.0.{name}": shape for name, shape in _LAYER.items()},
    "embedding.token_embedding.weight": (49408, 768),
    "final_layer_norm.weight": (768,),
}
RECELER = {
    f"{name}.{part}": shape
    for name, (width, _) in SD1_TRANSFORMERS.items()
    for part, shape in {
        "down.weight": (128, width),
        "down.bias": (128,),
        "up.weight": (width, 128),
        "up.bias": (width,),
    }.items()
}  # 16 erasers
WRAPPER = {
    "ft_modules_list.0.weight": (320, 768),
    "orig_modules_list.0.weight": (320, 768),
    "model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}


def hollow(path, shapes, metadata=None, dtype="F32"):
    """A whole safetensors file of zeros that takes no room on disk, however large its tensors are."""
    size = {"F32": 4, "BF16": 2}[dtype]
    header, end = {"__metadata__": metadata or {}}, 0
    for key, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * size
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return path


def nested(shapes):
    """Tables of ``module: {leaf: zeros}`` as Receler's file has them; leaves are the last two parts of a key."""
    tables = {}
    for key, shape in shapes.items():
        module, part, leaf = key.rsplit(".", 2)
        tables.setdefault(module, {})[f"{part}.{leaf}"] = torch.zeros(shape)
    return tables

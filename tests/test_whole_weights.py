"""Files of whole weights of every kind against their base: what they change is what is loaded, and nothing else."""

import format_fixtures as f
import pytest
import torch
from safetensors.torch import save_file

from erasure_core.errors import BadInput, NothingMatched, UnknownFormat, WrongBase, WrongFamily
from erasure_core.formats import describe, load, save
from erasure_core.keys import SD2, SDXL
from erasure_core.membranes import Membrane, apply

MID = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"


def relative(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


def noise(shape, seed=0, size=1.0):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model_of(family, *names):
    """Weights of a family: zeros that take no room, but for those of ``names``."""
    weights = {name: torch.zeros(()).expand(shape) for name, shape in family.shapes().items()}
    for i, name in enumerate(names):
        weights[name] = noise(family.shapes()[name], i, 0.05)
    return weights


def bare(tensors):
    return {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}


def unet_of(demo):
    weights = demo.weights()
    return {name: weights[name] for name in weights if name.startswith("unet.")}


def trained(weights, wanted, size=0.02):
    """The weights after a training of those that ``wanted`` accepts, which moves each number a little."""
    return {
        name: w + noise(w.shape, i, size * float(w.square().mean().sqrt())) if wanted(name) else w
        for i, (name, w) in enumerate(weights.items())
    }


def draw(demo, weights=None):
    hidden = demo.encode(["a red circle", "a blue heart"]).hidden
    x = noise((2, 8, 8, 8), 1)
    if weights:
        demo.pipe.unet.load_state_dict(bare(weights), strict=False)
    with torch.no_grad():
        return demo.pipe.unet(x, 500, encoder_hidden_states=hidden).sample


SCOPES = {
    "esd-x": lambda name: ".attn2." in name,
    "esd-x-strict": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "selfattn": lambda name: ".attn1." in name,
    "noxattn": lambda name: (
        not any(part in name for part in (".attn2.", "time_embedding", "conv_norm_out", "conv_out"))
    ),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
def test_esd_of_either_code_draws_what_its_weights_draw(tmp_path, demo, fresh, scope, whole):
    """ESD (arXiv 2303.07345): the first code saves a whole U-Net, the second only the layers that it has trained."""
    weights = unet_of(demo)
    after = trained(weights, SCOPES[scope])
    saved = after if whole else {name: after[name] for name in after if SCOPES[scope](name)}
    if whole:
        torch.save(bare(saved), tmp_path / "x.pt")
    else:
        save_file(bare(saved), tmp_path / "x.safetensors")
    erasure = load(next(tmp_path.iterdir()), base=demo)
    assert set(erasure.weight_deltas) == {name for name in after if SCOPES[scope](name)}
    assert erasure.gate == {"rows": "full"}
    assert erasure.recipe["format"] == ("unet" if whole else "partial-unet")
    assert ("doubt" in erasure.diagnostics["imported"]) == (not whole)  # of a part of the U-Net all is changed
    plain = draw(demo)
    with apply(demo, Membrane(erasure)):
        found = draw(demo)
    expected = draw(fresh, after)
    assert relative(found - plain, expected - plain) < 0.02
    assert torch.equal(draw(demo), plain)


def test_training_under_a_mask_is_the_same_base(tmp_path, demo):
    """ANT (arXiv 2504.12782) trains every layer, but only where a mask lets it."""
    weights = unet_of(demo)
    after = trained(weights, lambda name: True, 0.3)
    half = {name: torch.where(noise(w.shape, i) > 0, after[name], w) for i, (name, w) in enumerate(weights.items())}
    torch.save(bare(half), tmp_path / "x.pt")
    erasure = load(tmp_path / "x.pt", base=demo)
    assert len(erasure.weight_deltas) > 0.9 * len(weights) and "doubt" not in erasure.diagnostics["imported"]
    torch.save(bare(after), tmp_path / "x.pt")
    with pytest.raises(WrongBase, match="none of its tensors is the same"):
        load(tmp_path / "x.pt", base=demo)


@pytest.mark.parametrize("layout", ["table", "checkpoint"])
def test_concept_ablations_deltas_are_new_weights(tmp_path, demo, layout):
    """CA (arXiv 2303.13516): "delta" holds new weights, of the U-Net and of a text encoder with words of its own."""
    k, table = f"{MID}.to_k.weight", "text_encoder.text_model.embeddings.token_embedding.weight"
    q = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight"
    base = demo.weights()
    new, text = base[k] + noise(base[k].shape, 9, 0.01), base[q] + 0.01
    if layout == "table":
        words = torch.cat([base[table], noise((2, base[table].shape[1]), 5)])
        inner = {q.removeprefix("text_encoder."): text, table.removeprefix("text_encoder."): words}
        content = {"unet": {k.removeprefix("unet."): new}, "text_encoder": inner}
    else:
        key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        content = {"state_dict": {key: new}, "embed": noise((1, 64), 5)}
    torch.save(content, tmp_path / "delta.bin")
    erasure = load(tmp_path / "delta.bin", base=demo)
    assert set(erasure.weight_deltas) == ({k, q} if layout == "table" else {k})
    assert relative(erasure.weight_deltas[k].dense(), new - base[k]) < 1e-6
    assert erasure.recipe["format"] == ("ca-delta" if layout == "table" else "ca-ckpt")


def test_a_full_checkpoint_of_sd2_with_its_fused_text_encoder(tmp_path):
    """OpenCLIP keeps queries, keys and values in one tensor; what lies in the middle third are the keys."""
    bias, layer = f"{MID}.to_out.0.bias", "text_encoder.text_model.encoder.layers.1.self_attn"
    names = [bias, *(f"{layer}.{part}_proj.bias" for part in "qkv")]
    base = model_of(SD2, *names)
    fused = torch.cat([base[name] for name in names[1:]])
    fused[1024:2048] += 0.01
    file = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
        "model.diffusion_model.out.0.weight": torch.zeros(320),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1280, 1024),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0.bias": base[bias] * 2,
        "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias": fused,
        "first_stage_model.encoder.conv_in.weight": torch.ones(128, 3, 3, 3),
        "betas": torch.ones(1000),
    }
    torch.save(file, tmp_path / "compvis.pt")
    erasure = load(tmp_path / "compvis.pt", base=base)
    assert set(erasure.weight_deltas) == {bias, f"{layer}.k_proj.bias"}
    assert torch.allclose(erasure.weight_deltas[f"{layer}.k_proj.bias"].dense(), torch.full((1024,), 0.01), atol=1e-7)
    assert erasure.recipe["format"] == "checkpoint" and erasure.diagnostics["ignored"].startswith("2 tensors")


@pytest.mark.parametrize("wrap", ["bare", "AdvUnlearn", "no text_model"])
def test_a_text_encoder_becomes_changes_of_the_text_encoder(tmp_path, demo, wrap):
    """AdvUnlearn (arXiv 2405.15234): the table of words is frozen, every layer stands in the file twice."""
    base = demo.weights()
    names = [f"text_encoder.{name}" for name in f.TEXT_MODEL]
    new = {
        name.removeprefix("text_encoder."): base[name] if "embeddings" in name else base[name] + 0.01 for name in names
    }
    if wrap == "AdvUnlearn":
        twice = {name.removeprefix("text_model."): w for name, w in new.items() if "embeddings" not in name}
        file = {f"text_encoder.{name}": w for name, w in new.items()} | twice
    elif wrap == "bare":
        file = new | {"text_model.embeddings.position_ids": torch.arange(77.0)}
    else:
        file = {name.removeprefix("text_model."): w for name, w in new.items()}
    torch.save(file, tmp_path / "encoder.pt")
    erasure = load(tmp_path / "encoder.pt", base=demo)
    changed = {name for name in names if "embeddings" not in name}
    assert set(erasure.weight_deltas) == changed and "doubt" not in erasure.diagnostics["imported"]
    for name, delta in erasure.weight_deltas.items():
        assert relative(delta.dense(), new[name.removeprefix("text_encoder.")] - base[name]) < 1e-2
    assert "unmatched" not in erasure.diagnostics
    rows = demo.encode(["a red circle"]).hidden
    with apply(demo, Membrane(erasure)):
        assert not torch.equal(demo.encode(["a red circle"]).hidden, rows)
    assert torch.equal(demo.encode(["a red circle"]).hidden, rows)
    with pytest.raises(BadInput, match=r"holds a text encoder, and the base was given without one\. Connect the CLIP"):
        load(tmp_path / "encoder.pt", base=unet_of(demo))


def test_the_width_tells_which_text_encoder_it_is(tmp_path):
    file = {"text_model.encoder.layers.31.layer_norm1.bias": (1280,), "text_model.final_layer_norm.weight": (1280,)}
    path = f.hollow(tmp_path / "x.safetensors", file)
    assert "sdxl" in describe(path) and "2 tensors of the text encoder" in describe(path)
    with pytest.raises(BadInput, match="and its CLIP to 'base_clip'"):
        load(path)
    save_file({key: torch.ones(shape) for key, shape in file.items()}, path)
    names = {f"text_encoder_2.{key}" for key in file}
    assert set(load(path, base=model_of(SDXL, *names)).weight_deltas) == names


def eraser_file(width=32, blocks=("down_blocks.0.attentions.0",)):
    parts = {"down.weight": (8, width), "down.bias": (8,), "up.weight": (width, 8), "up.bias": (width,)}
    return {block: {part: noise(shape, i) for i, (part, shape) in enumerate(parts.items())} for block in blocks}


def test_recelers_erasers_keep_their_places_and_numbers(tmp_path):
    content = f.nested(f.RECELER)
    content["mid_block.attentions.0"]["up.bias"] = noise((1280,), 4)
    torch.save(content, tmp_path / "eraser_weights.pt")
    erasure = load(tmp_path / "eraser_weights.pt", concept="van gogh")
    assert len(erasure.bottlenecks) == 16 and not erasure.weight_deltas
    assert torch.equal(erasure.bottlenecks[MID].up_bias, noise((1280,), 4))
    assert erasure.gate == {"neighbours": [], "rows": "full", "phrases": ["van gogh"]}
    assert "fit sd2 as well" in erasure.diagnostics["family"] and erasure.recipe["method"] == "receler"
    again = load(save(erasure, tmp_path / "x"))
    assert again.bottlenecks.keys() == erasure.bottlenecks.keys() and again.gate == erasure.gate
    assert "16 of 128 units, behind cross-attention" in describe(tmp_path / "x.safetensors")
    with pytest.raises(WrongFamily, match=r"up_blocks\.1.* is 1280 wide, where sdxl has 640"):
        load(tmp_path / "eraser_weights.pt", base=SDXL.shapes())


def test_erasers_without_a_place_are_refused(tmp_path):
    torch.save(eraser_file(blocks=("down_blocks.7.attentions.0",)), tmp_path / "x.pt")
    with pytest.raises(NothingMatched, match="None of the 1 erasers"):
        load(tmp_path / "x.pt")
    broken = eraser_file()
    del broken["down_blocks.0.attentions.0"]["up.bias"]
    torch.save(broken, tmp_path / "x.pt")
    with pytest.raises(UnknownFormat, match="is not whole"):
        load(tmp_path / "x.pt")


@pytest.mark.parametrize("inside", [True, False])
def test_esds_wrapper_tells_its_layers_by_their_original_weights(tmp_path, demo, inside):
    weights = unet_of(demo)
    wanted = [name for name in weights if ".attn2." in name and name.endswith(".weight")]
    file = {}
    for number, name in enumerate(reversed(wanted)):
        file[f"ft_modules_list.{number}.weight"] = weights[name] * 1.1
        file[f"orig_modules_list.{number}.weight"] = weights[name]
        bias = name.removesuffix("weight") + "bias"
        if bias in weights:
            file |= {
                f"ft_modules_list.{number}.bias": weights[bias] + 1,
                f"orig_modules_list.{number}.bias": weights[bias],
            }
    if inside:
        file |= {f"model.{name}": w for name, w in weights.items()}
    torch.save(file, tmp_path / "x.pt")
    erasure = load(tmp_path / "x.pt", base=demo)
    biases = {name.removesuffix("weight") + "bias" for name in wanted} & weights.keys()
    mapped = {name for name in wanted if erasure.maps and (".to_k." in name or ".to_v." in name)}
    assert set(erasure.weight_deltas) | mapped == {*wanted, *biases} and biases
    for name in erasure.weight_deltas:
        expected = torch.ones_like(weights[name]) if name in biases else 0.1 * weights[name]
        assert relative(erasure.weight_deltas[name].dense(), expected) < 1e-2
    if not inside:
        with pytest.raises(BadInput, match="Connect the MODEL"):
            load(tmp_path / "x.pt")
        other = {name: w + 1 for name, w in weights.items()}
        with pytest.raises(UnknownFormat, match="of its 16 layers are not in this base"):
            load(tmp_path / "x.pt", base=other)


def test_a_pipelines_folder_is_its_unet_and_its_text_encoder(tmp_path, demo):
    weights = demo.weights()
    q = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight"
    after = trained(unet_of(demo), SCOPES["esd-x"])
    text = {name.removeprefix("text_encoder."): weights[name] for name in weights if name.startswith("text_encoder.")}
    text[q.removeprefix("text_encoder.")] = weights[q] * 1.1
    for folder in ("unet", "text_encoder"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    save_file(bare(after), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(text, tmp_path / "text_encoder" / "model.safetensors")
    erasure = load(tmp_path, base=demo)
    assert set(erasure.weight_deltas) == {name for name in after if SCOPES["esd-x"](name)} | {q}
    assert erasure.recipe["format"] == "pipeline"


def test_image_prompt_layers_are_dropped_and_set_weight_is_read(tmp_path, demo):
    k, old = f"{MID}.to_k.weight", demo.weights()[f"{MID}.to_k.weight"]
    image = {"mid_block.attentions.0.to_v_ip.weight": noise((4, 4))}
    save_file({k.removeprefix("unet."): old * 1.1, **image}, tmp_path / "x.safetensors")
    erasure = load(tmp_path / "x.safetensors", base=demo)
    assert set(erasure.weight_deltas) == {k} and "unmatched" not in erasure.diagnostics
    assert erasure.diagnostics["ignored"].startswith("1 tensors")
    ldm = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.set_weight"
    save_file({ldm: old * 1.1}, tmp_path / "x.safetensors")
    assert relative(load(tmp_path / "x.safetensors", base=demo).weight_deltas[k].dense(), 0.1 * old) < 1e-2

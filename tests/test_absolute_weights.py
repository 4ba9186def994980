"""Whole new weights (UCE, RECE, MACE, TRCE, SPEED) against a base, from key lists that our writers have no part in."""

import pytest
import torch
from safetensors.torch import save_file

from erasure_core.errors import BadInput, NothingMatched, WrongBase, WrongFamily
from erasure_core.formats import describe, load, sources
from erasure_core.keys import SD1
from erasure_core.membranes import Membrane, apply

# places of SD1.x's sixteen cross-attentions by both names, with the width of their level
DOWN, UP = ((0, 320), (1, 640), (2, 1280)), ((1, 1280), (2, 640), (3, 320))
PLACES = [
    *(
        (f"down_blocks.{b}.attentions.{a}", f"input_blocks.{1 + 3 * b + a}.1", width)
        for b, width in DOWN
        for a in (0, 1)
    ),
    ("mid_block.attentions.0", "middle_block.1", 1280),
    *((f"up_blocks.{b}.attentions.{a}", f"output_blocks.{3 * b + a}.1", width) for b, width in UP for a in (0, 1, 2)),
]


def keys(layout="diffusers", sides="kv"):
    """{key: (key as in diffusers, shape)} of the files: 32 matrices, or 16 for SPEED's values."""
    found = {}
    for diffusers, ldm, width in PLACES:
        for side in sides:
            inner = f".transformer_blocks.0.attn2.to_{side}.weight"
            key = {"diffusers": diffusers, "unet": f"unet.{diffusers}", "ldm": f"model.diffusion_model.{ldm}"}[layout]
            found[key + inner] = (diffusers + inner, (width, 768))
    return found


@pytest.fixture(scope="module")
def sd1():
    """A base of SD1.x's shapes: random keys and values, and the rest in shape only."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.zeros(()).expand(shape) for name, shape in SD1.shapes().items()}
    for name, shape in keys().values():
        weights[f"unet.{name}"] = torch.randn(shape, generator=generator) / 768**0.5
    return weights


def embedding_map(seed=1, rank=2, width=768):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(width, rank, generator=generator, dtype=torch.float64) for _ in range(2))
    return torch.eye(width, dtype=torch.float64) + left @ right.T / width


def map_of(erasure):
    return erasure.maps["clip_l"].matrix()


def relative(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


CASES = [
    ("diffusers", "kv", torch.float32, ".safetensors", 1e-6),  # UCE 2025
    ("unet", "kv", torch.float16, ".safetensors", 5e-3),
    ("ldm", "kv", torch.float32, ".pt", 1e-6),
    ("diffusers", "v", torch.float32, ".pt", 1e-6),  # SPEED's keys
    ("diffusers", "k", torch.bfloat16, ".safetensors", 4e-2),
]


@pytest.mark.parametrize(("layout", "sides", "dtype", "ending", "tolerance"), CASES)
def test_published_names_become_one_map(tmp_path, sd1, layout, sides, dtype, ending, tolerance):
    t = embedding_map()
    edited = {key: (sd1[f"unet.{name}"].double() @ t).to(dtype) for key, (name, _) in keys(layout, sides).items()}
    path = tmp_path / f"edit{ending}"
    if ending == ".pt":
        torch.save(edited, path)
    else:
        save_file(edited, path)
    erasure = load(path, base=sd1)
    assert erasure.applies == sides and not erasure.weight_deltas and erasure.rank == 2
    assert relative(map_of(erasure) - torch.eye(768), t - torch.eye(768)) < tolerance
    assert erasure.diagnostics["imported"]["map_residual"] < 3 * tolerance
    assert "doubt" not in erasure.diagnostics["imported"]


def test_the_published_loop_in_float32_is_a_map(tmp_path, sd1):
    """UCE's script (arXiv 2308.14761): outer products and an explicit inverse, in float32."""
    generator = torch.Generator().manual_seed(3)
    rows = (torch.randn(n, 768, generator=generator) for n in (3, 3, 20))
    c, a, p = (28 * torch.nn.functional.normalize(r, dim=1) for r in rows)
    right = 0.5 * torch.eye(768) + c.T @ c + p.T @ p
    edited, inverse = {}, torch.inverse(right)
    for key, (name, _) in keys().items():
        w = sd1[f"unet.{name}"]
        edited[key] = (0.5 * w + (w @ a.T) @ c + (w @ p.T) @ p) @ inverse
    torch.save(edited, tmp_path / "edit.pt")
    erasure = load(tmp_path / "edit.pt", base=sd1)
    exact = (a - c).T.double() @ torch.linalg.solve(right.double(), c.T.double()).T
    assert relative(map_of(erasure) - torch.eye(768), exact) < 1e-2
    assert erasure.diagnostics["imported"]["map_residual"] < 1e-2 and erasure.rank == 3


def kv_names(weights, sides="kv"):
    return [name for name in weights if any(f".attn2.to_{side}." in name for side in sides)]


def edited_demo(weights, t, sides="kv"):
    return {n: (weights[n].double() @ t).float() for n in kv_names(weights, sides)}


def bare(tensors):
    return {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}


def unet_output(model, hidden, weights=None):
    """The denoiser's output, with ``weights`` loaded into it directly if there are any."""
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    if weights:
        assert not model.pipe.unet.load_state_dict(bare(weights), strict=False).unexpected_keys
    with torch.no_grad():
        return model.pipe.unet(x, 500, encoder_hidden_states=hidden).sample


@pytest.mark.parametrize("sides", ["kv", "v"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_map_draws_what_the_edited_weights_draw(tmp_path, demo, fresh, circle, sides, whole):
    weights = demo.weights()
    edited = edited_demo(weights, map_of(circle), sides)
    rest = {name: weights[name] for name in weights if name.startswith("unet.")} if whole else {}
    torch.save(bare(rest | edited), tmp_path / "edit.pt")
    erasure = load(tmp_path / "edit.pt", base=demo)
    assert erasure.maps and not erasure.weight_deltas and erasure.applies == sides
    hidden = demo.encode(["a red circle", "a blue heart"]).hidden
    plain = unet_output(demo, hidden)
    with apply(demo, Membrane(erasure), rows="all"):
        found = unet_output(demo, hidden)
    expected = unet_output(fresh, hidden, edited)
    assert relative(found, expected) <= 1e-5 and relative(plain, expected) > 0.01
    assert erasure.base["probe"] and erasure.base["clip_skip"] == 1


def per_layer(weights, rank=2, sides="v"):
    """Every matrix with a map of its own, as SPEED's are."""
    return {
        n: (weights[n].double() @ embedding_map(i, rank, 64)).float() for i, n in enumerate(kv_names(weights, sides))
    }


def test_changes_that_are_no_map_become_deltas(tmp_path, demo, fresh):
    edited = per_layer(demo.weights())
    torch.save(bare(edited), tmp_path / "speed.pt")
    erasure = load(tmp_path / "speed.pt", base=demo)
    assert not erasure.maps and set(erasure.weight_deltas) == set(edited)
    assert {delta.rank for delta in erasure.weight_deltas.values()} == {2}
    notes = erasure.diagnostics["imported"]
    assert notes["map_residual"] > 0.3 and notes["delta_residual"] <= 1e-2 and "doubt" not in notes
    hidden = demo.encode(["a red circle", "a blue heart"]).hidden
    with apply(demo, Membrane(erasure)):
        found = unet_output(demo, hidden)
    assert relative(found, unet_output(fresh, hidden, edited)) < 1e-5


def test_a_rank_is_kept_and_its_loss_is_true(tmp_path, demo, circle):
    weights = demo.weights()
    save_file(bare(per_layer(weights)), tmp_path / "deltas.safetensors")
    erasure = load(tmp_path / "deltas.safetensors", base=weights, rank=1)
    missed = total = 0.0
    for name, new in per_layer(weights).items():
        change = new - weights[name]
        assert erasure.weight_deltas[name].rank == 1
        missed += float((change - erasure.weight_deltas[name].dense()).square().sum())
        total += float(change.square().sum())
    assert erasure.diagnostics["imported"]["delta_residual"] == pytest.approx((missed / total) ** 0.5, rel=0.01)
    save_file(bare(edited_demo(weights, map_of(circle))), tmp_path / "map.safetensors")
    erasure = load(tmp_path / "map.safetensors", base=weights, rank=3)
    assert erasure.rank == 3
    found = [weights[n].double() @ (map_of(erasure) - map_of(circle)) for n in kv_names(weights)]
    change = [weights[n].double() @ (map_of(circle) - torch.eye(64)) for n in kv_names(weights)]
    loss = sum(f.square().sum() for f in found) / sum(c.square().sum() for c in change)
    assert erasure.diagnostics["imported"]["map_residual"] == pytest.approx(float(loss) ** 0.5, rel=0.01)
    with pytest.raises(BadInput, match="whole number from 1 to"):
        load(tmp_path / "map.safetensors", base=weights, rank=0)


def test_other_changed_weights_become_deltas_beside_the_map(tmp_path, demo, circle):
    weights = demo.weights()
    edited = {name: weights[name] for name in weights if name.startswith("unet.")}
    edited |= edited_demo(weights, map_of(circle))
    conv, bias = "unet.mid_block.resnets.0.conv1.weight", "unet.conv_norm_out.bias"
    edited[conv] = edited[conv] + 0.1 * torch.ones_like(edited[conv])
    edited[bias] = edited[bias] + 1
    save_file(bare(edited), tmp_path / "x.safetensors")
    erasure = load(tmp_path / "x.safetensors", base=demo)
    assert erasure.maps and set(erasure.weight_deltas) == {conv, bias}
    for name in (conv, bias):
        assert relative(erasure.weight_deltas[name].dense(), edited[name] - weights[name]) < 1e-2


def test_a_whole_unet_of_another_base_is_refused_by_name(tmp_path, demo, circle):
    weights = demo.weights()
    edited = tuned({name: weights[name] for name in weights if name.startswith("unet.")}, 0.01)
    edited |= edited_demo(edited, map_of(circle))
    path = tmp_path / "erased-circle-towards_uncond-preserve_true-sd_1_4-method_replace.pt"
    torch.save(bare(edited), path)
    with pytest.raises(WrongBase, match=r"conv_in.weight .* differ .* 1\.0.%.*from Stable Diffusion 1\.4: give that"):
        load(path, base=demo)
    (tmp_path / "config.json").write_text('{"_name_or_path": "/home/x/y/CompVis/stable-diffusion-v1-4"}')
    with pytest.raises(WrongBase, match="made from stable-diffusion-v1-4: give that"):
        load(path, base=demo)
    (tmp_path / "config.json").write_text('{"_name_or_path": "CompVis/stable-diffusion-v1-4"}')
    with pytest.raises(WrongBase, match="made from CompVis/stable-diffusion-v1-4: give that"):
        load(path, base=demo)
    forced = load(path, base=demo, force=True)
    assert forced.diagnostics["imported"]["doubt"].startswith("Forced: conv_in.weight")


def test_half_precision_of_the_same_base_is_the_same_base(tmp_path, demo, circle):
    weights = demo.weights()
    edited = {name: weights[name] for name in weights if name.startswith("unet.")}
    edited |= edited_demo(weights, map_of(circle))
    save_file({name: tensor.half() for name, tensor in bare(edited).items()}, tmp_path / "x.safetensors")
    erasure = load(tmp_path / "x.safetensors", base=demo)
    assert erasure.maps and not erasure.weight_deltas
    assert relative(map_of(erasure), map_of(circle)) < 1e-3


def tuned(weights, size):
    generator = torch.Generator().manual_seed(4)
    return {
        n: w + size * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator) for n, w in weights.items()
    }


@pytest.mark.parametrize(("size", "verdict"), [(0.003, "fine"), (0.05, "doubt"), (0.5, "refused"), (20.0, "refused")])
def test_keys_and_values_of_another_base(tmp_path, demo, size, verdict):
    own = {name: demo.weights()[name] for name in kv_names(demo.weights())}
    save_file(bare(per_layer(tuned(own, size), sides="kv")), tmp_path / "x.safetensors")
    if verdict == "refused":
        with pytest.raises(WrongBase, match=r"x\.safetensors was made from another model: .* nearly all directions"):
            load(tmp_path / "x.safetensors", base=demo)
    erasure = load(tmp_path / "x.safetensors", base=demo, force=verdict == "refused")
    notes = erasure.diagnostics["imported"]
    assert ("doubt" in notes) == (verdict != "fine")
    assert notes["base_distance"] > 0.1
    with apply(demo, Membrane(erasure)) as applied:
        assert any("nearly all directions" in warning for warning in applied.receipts[0].warnings) == ("doubt" in notes)


def test_without_a_base_it_says_that_one_is_needed(tmp_path):
    save_file({key: torch.zeros(shape) for key, (_, shape) in keys().items()}, tmp_path / "x.safetensors")
    message = r"whole new weights for sd1 \(16 keys and 16 values of the text\), not what was changed.*--base"
    with pytest.raises(BadInput, match=message):
        load(tmp_path / "x.safetensors")
    save_file({"mid_block.attentions.0.proj_in.weight": torch.zeros(2, 2)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"odd\.safetensors holds whole new weights, not what was changed"):
        load(tmp_path / "odd.safetensors")
    text = describe(tmp_path / "x.safetensors")
    assert "16 keys and 16 values" in text and "needs" in text and "as the base" in text


def test_what_fits_no_base_is_refused(tmp_path, demo, sd1):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(shape) for key, (_, shape) in keys().items()}, path)
    with pytest.raises(WrongFamily, match="was made for another model"):
        load(path, base=demo)
    save_file({"up_blocks.9.attentions.7.proj_in.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(NothingMatched, match="None of the 1 entries"):
        load(path, base=demo)
    own = demo.weights()
    save_file(bare({name: own[name] for name in kv_names(own)}), path)
    with pytest.raises(BadInput, match="the same weights as this base, so it changes nothing"):
        load(path, base=demo)
    with pytest.raises(BadInput, match=r"The base has no weight unet\.down_blocks"):
        load(path, base=own.shapes())


def test_unknown_entries_are_told(tmp_path, demo, circle):
    edited = bare(edited_demo(demo.weights(), map_of(circle))) | {"embed.weight": torch.zeros(2, 2)}
    save_file(edited, tmp_path / "x.safetensors")
    assert "1 of 9 entries" in load(tmp_path / "x.safetensors", base=demo).diagnostics["unmatched"]


def test_tensors_are_read_one_by_one(tmp_path, demo, circle, monkeypatch):
    edited = bare(edited_demo(demo.weights(), map_of(circle)))
    save_file(edited, tmp_path / "x.safetensors")
    asked = []
    real = sources.read_tensors
    monkeypatch.setattr(sources, "read_tensors", lambda header, wanted: asked.append(wanted) or real(header, wanted))
    load(tmp_path / "x.safetensors", base=demo)
    assert sorted(key for wanted in asked for key in wanted) == sorted(edited) and all(len(w) == 1 for w in asked)

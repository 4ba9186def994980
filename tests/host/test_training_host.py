"""A graph's denoiser and text encoders open for training, against diffusers' U-Net with the graph's very weights.

Differences are relative 2-norms.
"""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear

EXACT = 1e-5
CASES = (
    "demo",
    "sd1",
    "sd2-v",
    "sdxl",
    "inference",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "lora",
    "ours",
    "low memory",
    "scaled fp8",
)
TINY = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
}
OF_FAMILY = {
    "sd1": {"cross_attention_dim": 64},
    "sd2-v": {"cross_attention_dim": 48, "use_linear_projection": True},
    "sdxl": {
        "cross_attention_dim": 160,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 96 + 6 * 256,
    },
}
SIZE = (64, 64)  # pixels of the pictures whose latents are predicted


def reference(kind, numbers, demo):
    """Diffusers' U-Net with the weights of the graph."""
    from diffusers import UNet2DConditionModel

    if kind in ("demo", "lora"):
        unet = UNet2DConditionModel.from_config(demo.pipe.unet.config)
    else:
        family = kind if kind in OF_FAMILY else "sdxl" if kind == "inference" else "sd1"
        unet = UNet2DConditionModel(**TINY, **OF_FAMILY[family])
    unet.load_state_dict({n.removeprefix("unet."): w for n, w in numbers.items() if n.startswith("unet.")})
    return unet.eval()


def answers(unet, numbers, layers):
    """The plain prediction, that under rank-1 changes of ``layers``, and the changes' gradients."""
    added = None
    if "pooled" in numbers:
        ids = torch.tensor([[*SIZE, 0, 0, *SIZE]] * 2)
        added = {"text_embeds": numbers["pooled"], "time_ids": ids}

    def predict():
        return unet(numbers["x"], torch.tensor([640, 17]), numbers["hidden"], added_cond_kwargs=added).sample

    with torch.no_grad():
        plain = predict()
    factors, handles = {}, []
    for layer in layers:
        module = unet.get_submodule(layer.removeprefix("unet."))
        outputs, inputs = module.weight.shape
        down = nn.Parameter(torch.linspace(-1, 1, inputs).reshape(1, -1))
        up = nn.Parameter(torch.linspace(-1, 1, outputs).reshape(-1, 1) * 0.1)
        factors[layer] = (down, up)

        def hook(module, args, out, down=down, up=up):
            return out + linear(linear(args[0], down), up)

        handles.append(module.register_forward_hook(hook))
    out = predict()
    out.square().mean().backward()
    return plain, out, {layer: (down.grad, up.grad) for layer, (down, up) in factors.items()}


def difference(one, other):
    return float((one.detach().double() - other.detach().double()).norm() / other.detach().double().norm())


@pytest.fixture(
    scope="module",
    params=[*CASES, "sdxl, recomputed", "lora, recomputed", "float8_e4m3fn, recomputed", "scaled fp8, recomputed"],
)
def case(request, in_comfy, tmp_path_factory):
    kind, _, again = request.param.partition(", ")
    path = tmp_path_factory.mktemp("training") / "numbers.safetensors"
    found = in_comfy("training", ask="denoiser", kind=kind, path=str(path), checkpointing=bool(again))
    return kind, found, load_file(path)


def test_predictions_and_gradients_are_those_of_diffusers(case, demo):
    kind, found, numbers = case
    plain, out, gradients = answers(reference(kind, numbers, demo), numbers, found["layers"])
    assert len(gradients) >= 3 and difference(out, plain) > 1e-2
    assert difference(numbers["plain"], plain) <= EXACT
    assert difference(numbers["out"], out) <= EXACT
    for layer, pair in gradients.items():
        for name, gradient in zip(("down", "up"), pair, strict=True):
            assert gradient.norm() > 0 and difference(numbers[f"{name}:{layer}"], gradient) <= EXACT


def test_nothing_is_left_behind(case):
    kind, found, _ = case
    assert found["wrong"] == []
    assert found["trainable"] and len(found["identity"]) == 16
    if kind == "inference":
        assert found["inference"] > 100
    assert found["low"] == (kind == "low memory")
    assert found["dtype"] == "torch.float32"
    if kind.startswith(("float", "bfloat")):
        assert found["stored"] == f"torch.{kind}"


def test_hooks_see_the_recomputation(case, request):
    _, found, _ = case
    first, both = found["calls"]
    again = "recomputed" in request.node.callspec.id
    assert set(first) == {1} and set(both) == {2 if again else 1}


def test_it_knows_what_the_model_is(case, demo):
    kind, found, numbers = case
    assert found["prediction"] == ("v" if kind == "sd2-v" else "eps")
    side = {"demo": 64, "lora": 64, "sd2-v": 768, "sdxl": 1024, "inference": 1024}.get(kind, 512)
    assert found["size"] == [side, side]
    assert numbers["sigmas"].shape == (1000,) and (numbers["sigmas"].diff() > 0).all()
    if kind == "demo":
        assert torch.allclose(numbers["sigmas"], demo.sigmas.float(), rtol=1e-4)  # products of a thousand float32


@pytest.mark.parametrize("way", ["error", "interrupted"])
def test_an_error_or_the_cancel_button_leaves_everything_as_it_was(in_comfy, way):
    found = in_comfy("training", ask="endings")[way]
    assert found["caught"] == {"error": "RuntimeError", "interrupted": "InterruptProcessingException"}[way]
    assert found["wrong"] == [] and found["same picture"]
    assert found["modes"] == [True, False]


def test_weights_that_the_host_takes_away_are_fetched_again(in_comfy):
    assert all(in_comfy("training", ask="moved").values())


@pytest.mark.parametrize("kind", ["demo", "sd1", "sd2-v", "sdxl"])
def test_texts_are_those_of_prompts_and_gradients_pass(in_comfy, kind):
    found = in_comfy("training", ask="texts", kind=kind)
    assert found["rows"] == 0 and found["pooled"] in (None, 0)
    assert len(found["gradients"]) == (4 if kind == "sdxl" else 2)
    for norm, slope in found["gradients"].values():
        assert norm > 1e-3 and slope == pytest.approx(norm, rel=2e-2)
    assert found["wrong"] == []
    assert found["refused"].startswith("BadInput: The prompt 'word word") and "77 tokens" in found["refused"]


OPTIONS = {"grid": 4, "draws": 2, "word_anchors": 1, "random_anchors": 1, "seed": 5}


def test_the_loop_is_the_same_in_both_hosts(in_comfy, demo):
    from erasure_core.concepts import concept_set
    from erasure_core.training.run import Job

    job = Job(demo, concept_set("circle -> square"), "spm", "balanced", (), None, OPTIONS)
    with job.opened() as trainer:
        with torch.no_grad():
            for i, name in enumerate(sorted(trainer.parameters)):  # layers have another order there
                if name.endswith(".down"):
                    values = torch.randn(trainer.parameters[name].shape, generator=torch.Generator().manual_seed(i))
                    trainer.parameters[name].copy_(values * 0.1)
        ours = [trainer.update() for _ in range(4)]
    theirs = in_comfy("training_node", ask="loop", options=OPTIONS)
    for (erasing, keeping), (there, kept) in zip(ours, theirs, strict=True):
        assert there == pytest.approx(erasing, rel=1e-4) and kept == pytest.approx(keeping, rel=2e-3)


@pytest.mark.parametrize("kind", ["sdxl", "sd2-v", "inference", "float16", "float8_e4m3fn", "lora", "scaled fp8"])
def test_the_node_trains_models_of_every_kind_and_leaves_them_as_they_are(in_comfy, kind):
    found = in_comfy("training_node", ask="node", kind=kind)
    assert found["wrong"] == [] and found["learned"] and found["another model"]
    assert found["layers"] == (48 if kind == "lora" else 84)
    assert found["previews"] == [2, 64, 128, 3] and found["curve"] == [1, 300, 640, 3]


def test_the_cancel_button_acts_within_a_step_and_loses_none(in_comfy):
    found = in_comfy("training_node", ask="cancel")
    assert found["stopped"].startswith("InterruptProcessingException") and found["wrong"] == []
    assert found["steps"] == 3 and found["bitwise"]
    assert "(went on from step 3)" in found["told"][0] and "went on" not in found["told"][1]


def test_what_cannot_be_trained_is_refused_in_one_sentence(in_comfy):
    found = in_comfy("training", ask="refusals")
    assert found["int8"].startswith("BadInput: The weight ") and "(torch.int8)" in found["int8"]
    assert "(Q8_0)" in found["packed"] and "or as fp8, to train." in found["packed"]
    for kind in ("flow", "flux"):
        assert found[kind].startswith("WrongFamily: This model does not predict noise or velocity")

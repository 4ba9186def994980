"""A pipeline's denoiser and text encoders open for training: right predictions and gradients, nothing left behind."""

import pytest
import torch
from tiny_models import tiny_sd2, tiny_sdxl
from torch import nn
from torch.nn.functional import linear

pytest.importorskip("diffusers")

from erasure_core.errors import BadInput, NothingMatched, WrongFamily
from erasure_core.models import from_pipeline
from erasure_core.training.frozen import frozen
from erasure_core.training.texts import Library, Texts, stack
from erasure_core.training.trainable import TrainableModel

PROMPTS = ["a red circle", "a blue square"]


def sd2_v():
    from diffusers import DDIMScheduler

    pipe = tiny_sd2()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    return from_pipeline(pipe)


def half():
    pipe = tiny_sd2()
    pipe.unet.to(torch.bfloat16)
    return from_pipeline(pipe)


BUILDERS = {
    "sdxl": lambda: from_pipeline(tiny_sdxl()),
    "sd2": lambda: from_pipeline(tiny_sd2()),
    "sd2-v": sd2_v,
    "bf16": half,
}


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    """Shared, because every use has to leave it as it was."""
    return BUILDERS[request.param]()


@pytest.fixture
def small():
    return from_pipeline(tiny_sd2())


def inputs(model, prompts=PROMPTS):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(len(prompts), *model.latent_shape(model.size), generator=generator)
    library = Library(model, prompts)
    return x, torch.tensor([640, 17][: len(prompts)]), stack([library[prompt] for prompt in prompts])


def plain(model, x, t, texts):
    """What the pipeline's own U-Net says, called by hand."""
    unet = model.pipe.unet
    added = None
    if texts.pooled is not None:
        height, width = (x.shape[-2] * 2, x.shape[-1] * 2)  # the tiny autoencoder halves once
        ids = torch.tensor([[height, width, 0, 0, height, width]] * len(x))
        added = {"text_embeds": texts.pooled.to(unet.dtype), "time_ids": ids.to(unet.dtype)}
    with torch.no_grad():
        return unet(x.to(unet.dtype), t, texts.hidden.to(unet.dtype), added_cond_kwargs=added).sample


class Rank1:
    """A trainable rank-1 change of one layer, and how often its hook ran."""

    def __init__(self, place, dtype=torch.float32):
        inputs, outputs = place.module.in_features, place.module.out_features
        self.down = nn.Parameter(torch.linspace(-1, 1, inputs).reshape(1, -1))
        self.up = nn.Parameter(torch.linspace(-1, 1, outputs).reshape(-1, 1) * 0.1)
        self.calls = 0
        self.handle = place.module.register_forward_hook(self)

    def __call__(self, module, args, out):
        self.calls += 1
        return out + linear(linear(args[0].float(), self.down), self.up).to(out.dtype)

    def gradients(self):
        found = self.down.grad.clone(), self.up.grad.clone()
        self.down.grad = self.up.grad = None
        return found


LAYER = "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
DEEP = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def state_of(*modules):
    """All that must be as before: weights bitwise, the very same objects, flags, hooks, own forward methods."""
    found = {}
    for number, root in enumerate(modules):
        for name, module in root.named_modules():
            here = (number, name)
            found[here] = (module.training, vars(module).get("forward"), list(module._forward_hooks))
            for key, p in module.named_parameters(recurse=False):
                found[(*here, key)] = (id(p), p.requires_grad, p.is_inference(), p.detach().clone())
    return found


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, old in before.items():
        for a, b in zip(old, after[key], strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key


def test_it_offers_all_that_training_asks_for(model):
    assert isinstance(model, TrainableModel)
    assert model.identity == model.fingerprint
    assert model.shapes()[f"{LAYER}.weight"] == tuple(model.pipe.unet.get_submodule(LAYER[5:]).weight.shape)
    assert model.latent_shape((32, 48)) == (4, 16, 24)


def test_eps_and_v_are_told_apart_and_anything_else_is_refused(small):
    from diffusers import DDIMScheduler

    assert (small.prediction, sd2_v().prediction) == ("eps", "v")
    small.pipe.scheduler = DDIMScheduler.from_config(small.pipe.scheduler.config, prediction_type="sample")
    with pytest.raises(WrongFamily, match="predicts 'sample'"):
        _ = small.prediction


def test_predict_is_the_pipelines_own_denoiser(model):
    x, t, texts = inputs(model)
    expected = plain(model, x, t, texts)
    with model.open_denoiser() as network:
        assert network.dtype == model.pipe.unet.dtype
        found = network.predict(x, t, texts)
        wide = network.predict(x[:, :, :, :6], t, texts)
    assert torch.equal(found, expected)
    assert torch.equal(wide, plain(model, x[:, :, :, :6], t, texts))
    assert not torch.equal(found[0], found[1])


def gradients(model, checkpointing, layers=(LAYER, DEEP)):
    x, t, texts = inputs(model)
    with model.open_denoiser(checkpointing) as network:
        adapters = [Rank1(network.place(layer)) for layer in layers]
        out = network.predict(x, t, texts)
        after_forward = [adapter.calls for adapter in adapters]
        out.float().square().mean().backward()
        for adapter in adapters:
            adapter.handle.remove()
        assert all(p.grad is None for p in model.pipe.unet.parameters())
    calls = [adapter.calls for adapter in adapters]
    return [g for adapter in adapters for g in adapter.gradients()], after_forward, calls


def test_gradients_reach_hooks_and_recomputing_changes_none(model):
    kept, forward, calls = gradients(model, checkpointing=False)
    assert forward == calls == [1, 1]
    again, forward, calls = gradients(model, checkpointing=True)
    assert forward == [1, 1] and calls == [2, 2]
    assert all(g.abs().max() > 0 for g in kept)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_gradients_are_those_of_the_plain_unet(small):
    x, t, texts = inputs(small)
    found, _, _ = gradients(small, checkpointing=True)
    modules = [small.pipe.unet.get_submodule(layer[5:]) for layer in (LAYER, DEEP)]
    adapters = [Rank1(type("Here", (), {"module": module})) for module in modules]
    small.pipe.unet(x, t, texts.hidden).sample.square().mean().backward()
    for adapter in adapters:
        adapter.handle.remove()
    expected = [g for adapter in adapters for g in adapter.gradients()]
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in zip(found, expected, strict=True))


def test_gradients_reach_the_texts(model):
    x, t, texts = inputs(model)
    hidden = texts.hidden.clone().requires_grad_(True)
    with model.open_denoiser() as network:
        network.predict(x, t, Texts(hidden, texts.pooled)).float().sum().backward()
    assert hidden.grad.abs().max() > 0


def test_recomputing_keeps_less(small):
    x, t, texts = inputs(small)
    sizes = []
    for checkpointing in (False, True):
        kept = {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with small.open_denoiser(checkpointing) as network:
            own = {p.untyped_storage().data_ptr() for p in small.pipe.unet.parameters()}
            adapter = Rank1(network.place(DEEP))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                network.predict(x, t, texts)
            adapter.handle.remove()
        sizes.append(sum(size for place, size in kept.items() if place not in own))
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_everything_is_put_back_even_after_an_error(model, checkpointing):
    unet = model.pipe.unet
    unet.train()
    unet.get_submodule("mid_block").eval()
    unet.get_submodule("conv_in").requires_grad_(False)
    x, t, texts = inputs(model)
    before, output = state_of(unet), plain(model, x, t, texts)
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="on the way"),
        model.open_denoiser(checkpointing) as network,
    ):
        assert torch.is_grad_enabled() and not unet.training
        assert not any(p.requires_grad for p in unet.parameters())
        assert not torch.is_inference_mode_enabled()
        network.predict(x, t, texts)
        raise RuntimeError("on the way")
    assert_same(before, state_of(unet))
    assert torch.equal(plain(model, x, t, texts), output)
    unet.eval()


def test_weights_made_in_inference_mode_are_not_copied():
    with torch.inference_mode():
        pipe = tiny_sd2()
        model = from_pipeline(pipe)
        x, t, texts = inputs(model)
        before, output = state_of(pipe.unet, pipe.text_encoder), plain(model, x, t, texts)
        places = {name: p.data_ptr() for name, p in pipe.unet.named_parameters()}
        assert all(p.is_inference() for p in pipe.unet.parameters()) and texts.hidden.is_inference()
        with model.open_denoiser(True) as network, model.open_text() as reader:
            assert {name: p.data_ptr() for name, p in pipe.unet.named_parameters()} == places
            adapter = Rank1(network.place(LAYER))
            network.predict(x, t, reader.read(PROMPTS)).square().mean().backward()
            adapter.handle.remove()
        assert torch.is_inference_mode_enabled() and adapter.up.grad.abs().max() > 0
        assert_same(before, state_of(pipe.unet, pipe.text_encoder))
        assert torch.equal(plain(model, x, t, texts), output)


def test_a_weight_exchanged_meanwhile_stays_exchanged():
    with torch.inference_mode():
        layer = nn.Linear(2, 2)
    fresh = nn.Parameter(torch.ones(2, 2))
    bias = layer.bias
    with frozen([layer]):
        assert not layer.weight.is_inference()
        layer.weight = fresh
    assert layer.weight is fresh and layer.bias is bias


def test_texts_are_those_of_encode(model):
    encoded = model.encode(["", *PROMPTS])
    with model.open_text() as reader:
        texts = reader.read(["", *PROMPTS])
    assert torch.equal(texts.hidden, encoded.hidden)
    if encoded.pooled is None:
        assert texts.pooled is None
    else:
        assert torch.equal(texts.pooled, encoded.pooled)


TEXT_LAYERS = {
    "sd2": ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"],
    "sdxl": [
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj",
    ],
}


@pytest.mark.parametrize("family", TEXT_LAYERS)
def test_gradients_reach_hooks_in_text_encoders(family):
    model = BUILDERS[family]()
    rows = model.encode(PROMPTS).hidden  # before the look at the hooks: transformers adds its own in the first call
    before = state_of(*model._text_modules())
    with model.open_text() as reader:
        for layer in TEXT_LAYERS[family]:
            adapter = Rank1(reader.place(layer))
            texts = reader.read(PROMPTS)
            assert not torch.equal(texts.hidden, rows)
            texts.hidden.square().sum().backward()
            adapter.handle.remove()
            assert all(g.abs().max() > 0 for g in adapter.gradients())
        assert torch.equal(reader.read(PROMPTS).hidden, rows)  # nothing that the change said is remembered
    assert_same(before, state_of(*model._text_modules()))
    assert torch.equal(model.encode(PROMPTS).hidden, rows)


def test_unknown_layers_and_long_prompts_are_refused(small):
    with small.open_denoiser() as network, pytest.raises(NothingMatched, match="no layer unet"):
        network.place("unet.nothing")
    with small.open_text() as reader:
        with pytest.raises(NothingMatched):
            reader.place("text_encoder_2.text_projection")
        with pytest.raises(BadInput, match="77 tokens"):
            reader.read(["word " * 90])

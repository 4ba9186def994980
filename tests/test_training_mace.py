"""MACE's LoRA stage: attention maps, loss, mask and timesteps against loops; what comes out is refined and fused."""

import math

import pytest
import torch
from tiny_models import tiny_sdxl
from training_support import gradients, opened, shaken

pytest.importorskip("diffusers")

from erasure_core.concepts import concept_set
from erasure_core.errors import BadInput
from erasure_core.models import from_pipeline
from erasure_core.training import train
from erasure_core.training.attention import looked_at, suppression, watched
from erasure_core.training.draw import drawn, generator, moments
from erasure_core.training.methods import mace_lora
from erasure_core.training.texts import Library, stack

SMALL = {"scope": "xattn-kv", "pool": 1, "grid": 6, "draws": 2, "refine": False}


def plain_maps(unet, x, t, rows, added=None):
    """Attention of every cross-attention by hand, from inputs that hooks see: [B, heads, places, 77] each, float64."""
    inputs, handles = {}, []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, name=name: inputs.update(
                        {name: (m, args[0], kwargs["encoder_hidden_states"])}
                    ),
                    with_kwargs=True,
                )
            )
    with torch.no_grad():
        unet(x, t, encoder_hidden_states=rows, added_cond_kwargs=added)
    for handle in handles:
        handle.remove()
    found = {}
    for name, (module, image, text) in inputs.items():
        q = image.double() @ module.to_q.weight.detach().double().T
        k = text.double() @ module.to_k.weight.detach().double().T
        size = q.shape[-1] // module.heads
        heads = []
        for h in range(module.heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        found[name] = torch.stack(heads, 1)
    return found


def a_batch(model, prompts):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(len(prompts), *model.latent_shape(model.size), generator=generator)
    library = Library(model, [*prompts, "star"])
    return x, torch.tensor([500, 120][: len(prompts)]), stack([library[p] for p in prompts]), library


@pytest.mark.parametrize("build", ["demo", "sdxl"])
def test_maps_and_loss_are_those_of_plain_attention(build, demo):
    model = demo if build == "demo" else from_pipeline(tiny_sdxl())
    x, t, texts, library = a_batch(model, ["a red star", "a big blue star"])
    added = None
    if texts.pooled is not None:
        ids = torch.tensor([[x.shape[-2] * 2, x.shape[-1] * 2, 0, 0, x.shape[-2] * 2, x.shape[-1] * 2.0]] * 2)
        added = {"text_embeds": texts.pooled, "time_ids": ids}
    expected = plain_maps(model.pipe.unet, x, t, texts.hidden, added)
    tokens = library.positions("a red star", "star")
    assert tokens == (3,) and library.positions("a big blue star", "star") == (4,)
    assert library.padding("a red star") == tuple(range(4, 77))
    mask = torch.zeros(x.shape[-2:])
    mask[1:4, 2:5] = 1
    total = seen = 0.0
    for maps in expected.values():
        side = math.isqrt(maps.shape[2])
        factor = x.shape[-1] // side
        inside = [
            float(mask[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].max())
            for i in range(side)
            for j in range(side)
        ]
        for b in range(2):
            squares = 0.0
            for place, there in enumerate(inside):
                squares += there * float((maps[b, :, place, [3, 5, 6]] ** 2).sum())
            total += math.sqrt(squares)
        image = maps[:, :, :, 3].mean((0, 1)).reshape(1, 1, side, side)
        seen = (
            seen + torch.nn.functional.interpolate(image, size=mask.shape, mode="bilinear", align_corners=False)[0, 0]
        )
    with model.open_denoiser() as network, watched(network, model.shapes()) as maps, torch.no_grad():
        network.predict(x, t, texts)
        assert set(maps.layers) == {f"unet.{name}" for name in expected}
        for layer in maps.layers:
            own = maps.of(layer, [1, 0], range(77))
            assert (own - expected[layer[5:]].flip(0)).abs().max() <= 1e-6
        assert float(suppression(maps, [0, 1], (3, 5, 6), mask)) == pytest.approx(total, rel=1e-6)
        assert float(suppression(maps, [0, 1], (3, 5, 6), mask * 0)) <= 1e-4
        looked = looked_at(maps, [0, 1], (3,), tuple(mask.shape))
    assert (looked - (seen - seen.min()) / (seen.max() - seen.min())).abs().max() <= 1e-5
    assert not any(module._forward_hooks for module in model.pipe.unet.modules())


def test_timesteps_follow_the_law():
    settings = mace_lora.Settings()
    taus = torch.arange(999, -1, -1)
    law = mace_lora.law(settings, taus)
    s = [1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400))) for t in taus.tolist()]
    assert (law - torch.tensor(s).double()).abs().max() <= 1e-6
    drawn = [k for i in range(400) for k in moments(1000, 4, generator(0, i, "moment"), law)]
    counts = torch.bincount(torch.tensor(drawn), minlength=1000).double() / len(drawn)
    expected = torch.tensor(s).double() / sum(s)
    assert (counts.cumsum(0) - expected.cumsum(0)).abs().max() < 0.03
    for i in range(20):  # one from each quarter, so ascending
        own = moments(1000, 4, generator(0, i, "moment"), law)
        assert list(own) == sorted(own)
    flat = mace_lora.law(mace_lora.Settings(early=300, late=300), taus)
    assert torch.equal(flat, torch.ones(1000).double())


def test_an_update_follows_the_loss_inside_the_mask(demo):
    with opened(demo, "mace_lora", **SMALL) as trainer:
        shaken(trainer)
        draw = drawn(0, trainer.settings, trainer.examples, trainer.library, trainer.bank, trainer.law)
        latents = trainer.source(draw)
        erasing, keeping = trainer.update()
        assert keeping == 0 and all(float(g.norm()) > 0 for n, g in gradients(trainer).items() if "to_k" in n)
        mask = trainer.watcher._mask
        assert set(mask.unique().tolist()) == {0.0, 1.0} and 0.02 < float(mask.mean()) < 0.9
        assert [trainer.engine.grid.taus[k] for k in latents.ks] == sorted(
            (trainer.engine.grid.taus[k] for k in latents.ks), reverse=True
        )
    with opened(demo, "mace_lora", mask="full", **SMALL) as trainer:
        shaken(trainer)
        assert trainer.update()[0] > erasing


def test_training_lowers_the_attention_to_the_concept(demo):
    with opened(demo, "mace_lora", lr=2e-2, **{**SMALL, "steps": 12}) as trainer:
        losses = [trainer.update()[0] for _ in range(12)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_result_is_refined_and_fused(demo):
    options = {"steps": 2, "sentences": "bare", "lr": 1e-2, **SMALL}
    whole = train(demo, "star -> heart", "mace_lora", preserve=["circle"], **{**options, "refine": True})
    bare = train(demo, "star -> heart", "mace_lora", preserve=["circle"], fused=False, **options)
    assert {d.rank for d in bare.weight_deltas.values()} == {1}
    assert all(".attn2.to_" in name for name in whole.weight_deltas)
    assert max(d.rank for d in whole.weight_deltas.values()) > 1
    assert whole.recipe["method"] == "mace_lora" and whole.recipe["trained"]
    alone = train(demo, "star -> heart", "mace_lora", preserve=["circle"], **options)
    rows = demo.encode(["star", "circle"]).hidden.double()
    (name,) = [n for n in bare.weight_deltas if n.endswith("to_k.weight")][:1]
    before, after = (rows @ made.weight_deltas[name].dense().double().T for made in (bare, alone))
    own, other = ((after[i] - before[i]).norm() / before[i].norm() for i in (0, 1))
    assert own < 0.3 and other > 2 * own and after[1].norm() < 0.8 * before[1].norm()


def test_what_cannot_be_is_said(demo):
    with pytest.raises(BadInput, match="one LoRA for each concept"):
        train(demo, concept_set("star\nheart"), "mace_lora", steps=1)
    with pytest.raises(BadInput, match="form=lora"):
        mace_lora.Settings(form="weights")
    with pytest.raises(BadInput, match="exchange"):
        mace_lora.Settings(early=500.0)

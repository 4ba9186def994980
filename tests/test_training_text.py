"""Methods that train the text encoder, SLUG and few-shot erasing, against float64 loops on a copy of it."""

import copy

import pytest
import torch
from tiny_models import tiny_sdxl

pytest.importorskip("diffusers")

from erasure_core import Membrane, apply, load, save
from erasure_core.concepts import Concept, ConceptSet
from erasure_core.errors import BadInput, IllConditioned, NothingMatched
from erasure_core.models import from_pipeline
from erasure_core.training import Callbacks, learned, train
from erasure_core.training.draw import drawn
from erasure_core.training.gradients import taped
from erasure_core.training.methods.slug import Judged, chosen, forget_loss, front, retain_loss
from erasure_core.training.run import Job
from erasure_core.training.scopes import text_layers_in

KEPT = ("circle", "square", "cross")
SMALL = {"sentences": "bare", "grid": 5, "pool": 1, "draws": 2}
UNKEPT = {"word_anchors": 0, "enough": 0.0, "guard": 0.0, "warmup": 0, "clip": 0}


def with_deltas(encoder, deltas):
    """A copy of a text encoder with changed weights, in its own precision."""
    dense = copy.deepcopy(encoder)
    modules = {f"text_encoder.text_model.{n.removeprefix('text_model.')}.weight": m for n, m in dense.named_modules()}
    with torch.no_grad():
        for name, delta in deltas.items():
            change = delta.up.double() @ delta.down.double() * delta.scale
            modules[name].weight += change.to(modules[name].weight)
    return dense


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def test_losses_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    own, aim = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    a, b = own.double().tolist(), aim.double().tolist()
    expected = sum(1 - cosine(x, y) for x, y in zip(a, b, strict=True)) / 3
    assert float(forget_loss(own, aim)) == pytest.approx(expected, abs=1e-6)
    logits = torch.tensor([[10 * cosine(x, y) for y in b] for x in a]).double()
    rows = sum(float(torch.logsumexp(logits[i], 0) - logits[i, i]) for i in range(3)) / 3
    columns = sum(float(torch.logsumexp(logits[:, i], 0) - logits[i, i]) for i in range(3)) / 3
    assert float(retain_loss(own, aim, 10.0)) == pytest.approx((rows + columns) / 2, rel=1e-6)


def test_the_front_and_the_choice():
    def at(layer, importance, alignment):
        return Judged(f"text_encoder.text_model.encoder.layers.{layer}", importance, alignment)

    judged = [
        at("0.mlp.fc1", 9.0, 0.9),
        at("1.mlp.fc1", 5.0, 0.2),
        at("2.mlp.fc2", 4.0, 0.3),  # beaten by the one before
        at("2.self_attn.v_proj", 3.0, 0.1),
        at("2.self_attn.q_proj", 1.0, 0.5),
        at("2.self_attn.k_proj", 1.0, 0.5),
        at("3.self_attn.out_proj", 0.5, 0.11),
    ]
    names = [one.layer.split("layers.")[1] for one in front(judged)]
    assert names == ["0.mlp.fc1", "1.mlp.fc1", "2.self_attn.v_proj"]
    assert [n.split("layers.")[1] for n in chosen(judged)] == [
        "2.self_attn.q_proj",
        "2.self_attn.k_proj",
        "2.self_attn.v_proj",
    ]
    assert [n.split("layers.")[1] for n in chosen(judged[:3])] == ["1.mlp.fc1"]


def test_gradients_as_factors_are_the_gradients(demo):
    encoder = copy.deepcopy(demo.pipe.text_encoder).double()
    encoder.requires_grad_(True)
    prompts = ["star"]
    ids = demo.pipe.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    end = 2
    aim = torch.linspace(-1, 1, 64).double()
    loss = 1 - torch.cosine_similarity(encoder(ids).last_hidden_state[0, end], aim, dim=0)
    loss.backward()
    layers = text_layers_in(demo.shapes(), "all")
    with demo.open_text() as text, taped({layer: text.place(layer) for layer in layers}) as tape:
        found = tape.gradients(forget_loss(text.read(prompts).hidden[:, end], aim[None].float()))
    assert len(found) >= 10
    for layer, factors in found.items():
        name = layer.removeprefix("text_encoder.")
        module = dict(encoder.named_modules()).get(name) or dict(encoder.named_modules())[name.split(".", 1)[1]]
        expected = module.weight.grad
        assert (factors.dense() - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))
        values = torch.linalg.svdvals(expected)
        assert factors.down.shape[0] <= 3 and values[3] < 1e-6 * values[0]  # start token, word, end token


def test_slug_is_one_exact_low_rank_step_that_forgets(demo, tmp_path):
    tried = []
    made = train(demo, "star", "slug", Callbacks(report=tried.append), preserve=KEPT)
    again = train(demo, "star", "slug", preserve=KEPT)
    measured = made.diagnostics["training"]
    assert len(tried) == 10 and made.weight_deltas.keys() == again.weight_deltas.keys()
    assert all(name.startswith("text_encoder.") and d.rank <= 3 for name, d in made.weight_deltas.items())
    assert all(torch.equal(d.up, again.weight_deltas[n].up) for n, d in made.weight_deltas.items())
    assert measured["cosine_after"] < measured["cosine_before"] and "kept_cosine_change" in measured
    loaded = load(save(made, tmp_path / "slug.safetensors"))
    before = demo.encode(["star"]).hidden[0]
    dense = with_deltas(demo.pipe.text_encoder, made.weight_deltas)
    with torch.no_grad():
        ids = demo.pipe.tokenizer(["star"], padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        expected = dense(ids).last_hidden_state[0]
    with apply(demo, Membrane(loaded)):
        after = demo.encode(["star"]).hidden[0]
    assert (after - expected).abs().max() <= 1e-5 * float(expected.abs().max())
    assert float((after - before).abs().max()) > 0.1
    assert torch.equal(demo.encode(["star"]).hidden[0], before)


def test_a_small_step_already_leads_away(demo):
    made = train(demo, "star", "slug", preserve=KEPT, strength=1e-3)
    measured = made.diagnostics["training"]
    assert 0 < measured["cosine_before"] - measured["cosine_after"] < 0.05


def test_slug_says_when_nothing_helps_and_keeps_no_state(demo, tmp_path):
    with pytest.raises(IllConditioned, match="forget"):
        train(demo, "star", "slug", preserve=KEPT, search=1, first=1e-6)
    with pytest.raises(BadInput, match="one go"):
        learned(demo, "star", tmp_path / "state", "slug")


def test_both_encoders_of_sdxl_take_a_step():
    model = from_pipeline(tiny_sdxl())
    made = train(model, "star", "slug", preserve=KEPT, top=1, search=5, first=1.0)
    assert {name.split(".")[0] for name in made.weight_deltas} == {"text_encoder", "text_encoder_2"}


def test_layers_of_the_text_encoder(demo):
    shapes = demo.shapes()
    last = [n for n in text_layers_in(shapes, "mlp-last") if "self_attn" in n]
    assert len(text_layers_in(shapes, "all")) == 12 and len(text_layers_in(shapes, "mlp")) == 4
    assert len(last) == 4 and all(".layers.1." in n for n in last)
    assert all(".layers.0." in n for n in text_layers_in(shapes, "all", clip_skip=2))
    with pytest.raises(NothingMatched, match="no CLIP"):
        text_layers_in({"unet.conv_in.weight": (4, 4, 3, 3)}, "all")


def test_few_shot_raises_the_denoisers_own_loss(demo):
    job = Job(demo, few(), "few_shot", "balanced", (), None, {**SMALL, **UNKEPT, "lr": 1e-2})
    encoder, unet = (copy.deepcopy(m).double() for m in (demo.pipe.text_encoder, demo.pipe.unet))
    with job.opened() as trainer:
        draw = drawn(0, trainer.settings, trainer.examples, trainer.library, trainer.bank)
        latents = trainer.source(draw)
        losses = [trainer.update()[0] for _ in range(6)]
        taus = trainer.engine.grid.taus[list(latents.ks)]
        ids = demo.pipe.tokenizer(
            [draw.example.texts["concept"]], padding="max_length", max_length=77, return_tensors="pt"
        )
        with torch.no_grad():
            rows = encoder(ids["input_ids"]).last_hidden_state.expand(2, -1, -1)
            out = unet(latents.x.double(), taus, rows).sample
        expected = sum(float((out[i] - latents.noise.double()).square().mean()) for i in range(2)) / 2
        assert losses[0] == pytest.approx(-expected, abs=1e-6)
        assert trainer.closeness() < 1
    assert losses[-1] < losses[0]


def test_nothing_is_pushed_further_than_enough(demo):
    """Where the text already describes a picture that much worse than the anchor's does, it is left alone."""
    unet = copy.deepcopy(demo.pipe.unet).double()
    for times, moves in ((1e-6, False), (1e6, True)):
        options = {**SMALL, **UNKEPT, "lr": 3e-3, "enough": times}
        concepts = ConceptSet((Concept("star", "heart"),))
        with Job(demo, concepts, "few_shot", "balanced", (), None, options).opened() as trainer:
            draw = drawn(0, trainer.settings, trainer.examples, trainer.library, trainer.bank)
            latents = trainer.source(draw)
            erasing, _ = trainer.update()
            _ = [trainer.update() for _ in range(2)]
            moved = max(float(delta.up.abs().max()) for delta in trainer.engine.adapter.deltas().values())
            assert (moved > 0) is moves
            if not moves:
                rows = demo.encode(["heart"]).hidden.double()
                taus = trainer.engine.grid.taus[list(latents.ks)]
                with torch.no_grad():
                    out = unet(latents.x.double(), taus, rows.expand(2, -1, -1)).sample
                expected = sum(float((out[i] - latents.noise.double()).square().mean()) for i in range(2)) / 2
                assert erasing == pytest.approx(-times * expected, rel=1e-4)


@pytest.mark.parametrize("surgery", [False, True])
def test_few_shot_holds_texts_of_the_bank(demo, surgery):
    """Mean square by which they moved, as a share of their own; and it does hold them."""
    encoder = copy.deepcopy(demo.pipe.text_encoder).double()
    moved = []
    for weight in (7.0, 0.0):
        options = {**SMALL, **UNKEPT, "lr": 3e-3, "word_anchors": 2, "anchor_weight": weight, "surgery": surgery}
        concepts = ConceptSet((Concept("star"),), ("circle",))  # one phrase gives a bank of two texts
        with Job(demo, concepts, "few_shot", "balanced", (), None, options).opened() as trainer:
            assert len(trainer.bank.prompts) == 2
            for _ in range(5):
                trainer.update()
            ids = demo.pipe.tokenizer(
                trainer.bank.prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            )["input_ids"]
            with torch.no_grad():
                before = encoder(ids).last_hidden_state
                after = with_deltas(encoder, trainer.engine.adapter.deltas())(ids).last_hidden_state
            moved.append(float((after - before).square().mean() / before.square().mean()))
            assert moved[-1] > 1e-7
            assert trainer.update()[1] == pytest.approx(weight * moved[-1], rel=1e-3, abs=1e-9)
    assert moved[0] < 0.7 * moved[1]


def few():
    from erasure_core.concepts import concept_set

    return concept_set("star")


def test_the_guard_ends_few_shot_at_the_last_good_step(demo, tmp_path):
    options = {**SMALL, "steps": 30, "lr": 4e-3, "guard": 0.995, "warmup": 0, "word_anchors": 0}
    state = tmp_path / "state"
    made = train(demo, "star", "few_shot", state=state, **options)
    steps = made.recipe["steps"]
    assert 0 < steps < 30
    again = train(demo, "star", "few_shot", state=state, **options)
    assert again.recipe["steps"] == steps
    for name, delta in made.weight_deltas.items():
        assert torch.equal(delta.up, again.weight_deltas[name].up) and name.startswith("text_encoder.")
    rows = demo.encode(["a photo of a dog", "star"]).hidden
    with apply(demo, Membrane(made)):
        changed = demo.encode(["a photo of a dog", "star"]).hidden
    assert float((changed - rows).abs().max()) > 0
    with pytest.raises(BadInput, match="no attack"):
        train(demo, "star", "few_shot", attack=3)

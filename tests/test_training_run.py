"""Whole trainings of the bundled model, a few updates long: losses, files, interruption, resuming after a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from erasure_core import Membrane, apply, load, save
from erasure_core.concepts import parse_concepts
from erasure_core.errors import BadInput, IllConditioned, WrongFamily
from erasure_core.training import METHODS, Callbacks, learned, loop, train
from erasure_core.training.engine import Engine
from erasure_core.training.run import Job

SMALL = {"steps": 3, "grid": 6, "draws": 2, "lr": 0.01}
CONCEPT = "star -> heart"


def job(model, method="spm", concept=CONCEPT, preserve=("moon",), **options):
    return Job(model, parse_concepts(concept), method, "balanced", preserve, None, {**SMALL, **options})


def shaken(trainer):
    """Parameters as in the middle of a training."""
    source = torch.Generator().manual_seed(3)
    for p in trainer.parameters.values():
        p.data = torch.randn(p.shape, generator=source) * 0.05


def dense_outputs(model, deltas, x, t, text):
    """The bundled U-Net's own output, with ``deltas`` (name -> dense change) merged into a copy of its weights."""
    unet = model.pipe.unet
    own = dict(unet.named_parameters())
    kept = {name: own[name].data for name in deltas}
    try:
        for name, change in deltas.items():
            own[name].data = kept[name] + change
        with torch.no_grad():
            return unet(x, t, encoder_hidden_states=text, return_dict=False)[0].double()
    finally:
        for name, weight in kept.items():
            own[name].data = weight


@pytest.mark.parametrize(("method", "eta"), [("spm", 1.0), ("spm", 3.0), ("esd", 1.0)])
def test_the_loss_is_the_papers_on_merged_weights(demo, method, eta):
    """``|e(c|M) - (e_s - eta (e_c - e_s))|^2 + lambda mean_a |e(a|M) - e_a|^2``, latent by latent, in plain loops."""
    with job(demo, method, eta=eta).opened() as trainer:
        shaken(trainer)
        seen = []
        original = trainer.source
        trainer.source = lambda draw: seen.append((draw, original(draw))) or seen[-1][1]
        gradients = trainer._gradients(_draw(trainer))
        deltas = {n.removeprefix("unet."): d.dense() for n, d in trainer.engine.adapter.deltas().items()}
        told = trainer.engine.grid.told
    ((draw, latents),) = seen
    erasing = keeping = 0.0
    for i, k in enumerate(latents.ks):
        x, t = latents.x[i : i + 1], told[k]

        def predicted(role, changed, x=x, t=t):
            return dense_outputs(demo, deltas if changed else {}, x, t, draw.rows[role].hidden)

        e_c, e_s = predicted("concept", False), predicted("anchor", False)
        erasing += float(((predicted("concept", True) - (e_s - eta * (e_c - e_s))) ** 2).mean()) / len(latents.ks)
        for role in draw.anchors[i]:
            drift = float(((predicted(role, True) - predicted(role, False)) ** 2).mean())
            keeping += trainer.settings.anchor_weight * drift / len(draw.anchors[i]) / len(latents.ks)
    assert gradients.erasing == pytest.approx(erasing, rel=1e-4, abs=1e-6)
    assert gradients.keeping == pytest.approx(keeping, rel=1e-4, abs=1e-6)
    assert erasing > 1e-4 and keeping > 1e-6


def _draw(trainer):
    from erasure_core.training.draw import drawn

    return drawn(trainer.step, trainer.settings, trainer.examples, trainer.library, trainer.bank)


def test_latents_are_the_trained_models_own_trajectory(demo):
    """DDIM with guidance 3 by merged weights, step by step; the first moment is nothing but noise."""
    with job(demo, grid=5, draws=5).opened() as trainer:
        shaken(trainer)
        draw = _draw(trainer)
        latents = trainer.source(draw)
        deltas = {n.removeprefix("unet."): d.dense() for n, d in trainer.engine.adapter.deltas().items()}
        taus = trainer.engine.grid.taus.tolist()
    alphas = demo.pipe.scheduler.alphas_cumprod.double()
    x = latents.noise[None]
    assert latents.ks == (0, 1, 2, 3, 4)
    for k, t in enumerate(taus):
        assert (latents.x[k] - x[0]).abs().max() <= 1e-4, k
        c, e = (dense_outputs(demo, deltas, x.float(), t, draw.rows[r].hidden) for r in ("concept", "empty"))
        noise = e + 3.0 * (c - e)
        a, after = alphas[t], alphas[taus[k + 1]] if k + 1 < len(taus) else torch.tensor(1.0)
        clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * noise


def test_small_batches_give_the_same_gradients(demo):
    found = []
    for micro in (0, 3):
        with job(demo, micro=micro).opened() as trainer:
            shaken(trainer)
            found.append(trainer._gradients(_draw(trainer)))
    one, other = found
    assert one.erasing == pytest.approx(other.erasing, rel=1e-5)
    for name, slope in one.of_erasing.items():
        assert (slope - other.of_erasing[name]).abs().max() <= 1e-4 * slope.abs().max() + 1e-9, name


def test_memory_that_runs_out_halves_the_batch(demo):
    """The step is made again with less at once, and ends with the same gradients."""
    with job(demo).opened() as trainer:
        shaken(trainer)
        whole = trainer._gradients(_draw(trainer))
        predict, largest = trainer.engine.network.predict, []

        class Full:
            dtype, device = trainer.engine.network.dtype, trainer.engine.network.device

            def predict(self, x, t, texts):
                largest.append(len(x))
                if len(x) > 4:
                    raise torch.OutOfMemoryError
                return predict(x, t, texts)

        trainer.engine.network = Full()
        again = trainer._fitting(_draw(trainer))
    assert max(largest) > 4 and trainer.engine.micro <= 4
    assert again.erasing == pytest.approx(whole.erasing, rel=1e-5)


def test_training_lowers_the_loss_and_leaves_the_model_alone(demo):
    before = demo.fingerprint
    reports = []
    fixed = {"sentences": "bare", "latents": "teacher", "pool": 1, "grid": 4, "draws": 4}  # the same in every update
    made = train(demo, CONCEPT, "esd", Callbacks(report=reports.append), steps=25, lr=0.02, **fixed)
    assert demo.fingerprint == before
    assert not any(m._forward_hooks for m in demo.pipe.unet.modules())
    assert all(not p.requires_grad or p.grad is None for p in demo.pipe.unet.parameters())
    assert reports[-1].erasing < reports[0].erasing / 5
    assert [r.step for r in reports] == list(range(1, 26)) and reports[-1].left == 0.0
    assert made.recipe["method"] == "esd" and made.recipe["steps"] == 25
    assert made.gate["phrases"] == ["star"] and made.gate["rows"] == "full" and "floor" in made.gate


@pytest.mark.parametrize("form", ["lora", "weights"])
def test_the_file_is_a_lora_with_everything_needed_to_gate_it(demo, tmp_path, form):
    made = train(demo, CONCEPT, "spm", preserve=["moon"], form=form, **SMALL)
    path = save(made, tmp_path / "star.safetensors")
    again = load(path)
    assert again.recipe == made.recipe and again.gate == made.gate
    for name, delta in made.weight_deltas.items():
        assert torch.allclose(again.weight_deltas[name].dense(), delta.dense(), atol=1e-7), name
    with safe_open(path, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert (f"{stem}.lora_down.weight" in keys) == (form == "lora") and (f"{stem}.diff" in keys) == (form == "weights")
    assert metadata["prompts"] == "star" and (
        form == "weights" or (metadata["rank"], metadata["alpha"]) == ("1", "1.0")
    )
    x = [demo.sample(demo.encode(["a red star"]), seed=3, steps=2)]
    for strength in (0.0, 1.0):
        with apply(demo, Membrane(again, strength=strength, gate="always")):
            x.append(demo.sample(demo.encode(["a red star"]), seed=3, steps=2))
    assert torch.equal(x[0], x[1]) and not torch.equal(x[0], x[2])


class Stop(Exception):
    pass


def stop_at(step):
    def report(r):
        if r.step == step:
            raise Stop

    return Callbacks(report=report)


def same(one, other):
    assert one.weight_deltas.keys() == other.weight_deltas.keys()
    for name, delta in one.weight_deltas.items():
        for part in ("down", "up", "diff"):
            mine, theirs = getattr(delta, part), getattr(other.weight_deltas[name], part)
            assert (mine is None and theirs is None) or torch.equal(mine, theirs), (name, part)


@pytest.mark.parametrize("options", [{}, {"average": 0.9, "latents": "average"}, {"latents": "teacher", "pool": 2}])
def test_an_interrupted_training_goes_on_bitwise_and_is_usable_before(demo, tmp_path, options):
    settings = {**SMALL, "steps": 5, **options}
    whole = train(demo, CONCEPT, "spm", **settings)
    state = tmp_path / "state.safetensors"
    before = demo.fingerprint
    with pytest.raises(Stop):
        train(demo, CONCEPT, "spm", stop_at(2), state=state, **settings)
    assert demo.fingerprint == before and not any(m._forward_hooks for m in demo.pipe.unet.modules())
    part = learned(demo, CONCEPT, state, "spm", **settings)
    assert part.recipe["steps"] == 2
    assert any(d.up is not None and bool(d.up.any()) for d in part.weight_deltas.values())
    steps = []
    same(whole, train(demo, CONCEPT, "spm", Callbacks(report=lambda r: steps.append(r.step)), state=state, **settings))
    assert steps == [3, 4, 5]
    with pytest.raises(BadInput, match="belongs to another training: settings differ"):
        train(demo, CONCEPT, "spm", state=state, **{**settings, "lr": 0.02})
    with pytest.raises(BadInput, match="There is no state of a training"):
        learned(demo, CONCEPT, tmp_path / "none", "spm", **settings)


WORKER = """
import json, sys, torch
torch.set_num_threads(1)
from erasure_core import models
from erasure_core.training import train, Callbacks
report = Callbacks(report=lambda r: print(r.step, flush=True))
train(models.load_demo(), sys.argv[1], "spm", report, state=sys.argv[2], **json.loads(sys.argv[3]))
"""
KILLED = {"preserve": ["moon"], "keep_every": 2, "steps": 12, "grid": 6, "draws": 2, "lr": 0.01, "average": 0.9}


def worker(state):
    """A process that trains until it is killed."""
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, CONCEPT, str(state), json.dumps(KILLED)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def told(metadata):
    """Metadata without date and timings."""
    found = dict(metadata)
    numbers = json.loads(found.pop("membrane.diagnostics"))["training"]
    return found, {k: v for k, v in numbers.items() if k not in ("date", "seconds", "rows_forward", "rows_backward")}


def test_killed_at_random_and_resumed_gives_the_same_file(demo, tmp_path):
    """Real SIGKILLs, the moments from a fixed seed; the state is at most two steps old."""
    pick, state = random.Random(20), tmp_path / "killed.state"
    for _ in range(2):
        allowed = pick.randint(1, 5)
        with worker(state) as process:
            for number, _ in enumerate(process.stdout, start=1):
                if number == allowed:
                    time.sleep(pick.random() * 0.1)
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    steps = []
    resumed = Callbacks(report=lambda r: steps.append(r.step))
    files = []
    for name, callbacks, kept in (("killed", resumed, state), ("whole", None, None)):
        made = train(demo, CONCEPT, "spm", callbacks, state=kept, **KILLED)
        files.append(safe_open(save(made, tmp_path / f"{name}.safetensors"), "pt"))
    one, other = files
    assert 2 < steps[0] < 12  # it did go on
    assert set(one.keys()) == set(other.keys()) and told(one.metadata()) == told(other.metadata())
    assert all(torch.equal(one.get_tensor(key), other.get_tensor(key)) for key in one.keys())  # noqa: SIM118


def test_a_loss_that_is_no_number_stops_with_the_last_good_state(demo, tmp_path, monkeypatch):
    """The network's output overflows from the third update on."""
    state, broken = tmp_path / "state.safetensors", []
    predict = Engine.predict
    monkeypatch.setattr(Engine, "predict", lambda *given: predict(*given) * (torch.nan if broken else 1.0))
    callbacks = Callbacks(report=lambda r: broken.append(1) if r.step == 2 else None)
    options = {**SMALL, "steps": 5}
    with pytest.raises(IllConditioned, match=r"unstable in step 3: .* lower learning rate than lr=0.01"):
        train(demo, CONCEPT, "spm", callbacks, state=state, **options)
    broken.clear()
    same(learned(demo, CONCEPT, state, "spm", **options), stopped_after_two(demo, tmp_path, options))


def stopped_after_two(demo, tmp_path, options):
    with pytest.raises(Stop):
        train(demo, CONCEPT, "spm", stop_at(2), state=tmp_path / "two", **options)
    return learned(demo, CONCEPT, tmp_path / "two", "spm", **options)


def test_it_stops_when_the_loss_does_not_fall_any_more(demo, monkeypatch):
    monkeypatch.setattr(loop, "WINDOW", 3)
    made = train(demo, CONCEPT, "esd", steps=30, grid=2, draws=1, lr=1e-8, plateau=0.5)
    assert made.recipe["steps"] == 12  # four windows
    assert loop.has_settled([1.0] * 12, 0.01) and not loop.has_settled([1.0] * 12, 0.0)
    assert not loop.has_settled([1.0] * 9 + [0.5] * 3, 0.01) and not loop.has_settled([1.0] * 11, 0.01)


def test_previews_come_from_the_trained_model_and_always_from_the_same_noise(demo):
    seen = {}
    callbacks = Callbacks(preview=seen.__setitem__, every=2)
    train(demo, "star -> heart\n+ moon", "spm", callbacks, **{**SMALL, "steps": 4, "lr": 0.05})
    assert list(seen) == [2, 4] and seen[2].shape == (2, *demo.latent_shape(demo.size))
    assert not torch.equal(seen[2], seen[4]) and torch.allclose(seen[2], seen[4], atol=2.0)


@pytest.mark.parametrize(("call", "says"), [
    (lambda m: train(m, CONCEPT, "dreambooth"), "Unknown method 'dreambooth'. Known: spm, esd"),
    (lambda m: train(m, CONCEPT, preset="slow"), "no preset 'slow'"),
    (lambda m: train(m, CONCEPT, steps=0), "The option 'steps' cannot be 0"),
    (lambda m: train(m, CONCEPT, colour=1), "'spm' has no option 'colour'"),
    (lambda m: train(m, CONCEPT, templates="no place"), "has no place for the concept"),
    (lambda m: train(m, ""), "There is no concept to erase"),
])  # fmt: skip
def test_wrong_use_is_one_sentence(demo, call, says):
    with pytest.raises(BadInput, match=says):
        call(demo)


def test_a_model_that_cannot_be_trained_is_named(demo):
    class Flux:
        family = "flux"

    with pytest.raises(WrongFamily, match="not on flux"):
        train(Flux(), CONCEPT)


def test_presets_multiply_the_usual_steps(demo):
    steps = {
        p: Job(demo, parse_concepts(CONCEPT), "spm", p, (), None, {}).settings.steps
        for p in ("fast", "balanced", "thorough")
    }
    assert steps["fast"] * 5 == 2 * steps["balanced"] and steps["thorough"] == 3 * steps["balanced"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_two_steps_and_says_what_it_is_for(demo, method):
    module = METHODS[method]
    assert module.SUMMARY.count("\n") == 0 and len(module.WHY) > 60
    known = {field.name for field in fields(module.Settings)}
    options = {name: value for name, value in {"steps": 2, "grid": 4, "draws": 2, "pool": 2}.items() if name in known}
    before = demo.fingerprint
    made = train(demo, "star -> heart\n+ moon | circle | square | cross | ring", method, **options)
    assert demo.fingerprint == before and made.weight_deltas and made.gate["phrases"] == ["star"]
    assert made.recipe["trained"] is True

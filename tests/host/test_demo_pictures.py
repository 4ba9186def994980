"""The demo model draws the same pictures in ComfyUI and in diffusers, and erasures travel both ways."""

import pytest
import torch

from erasure_core import Membrane, apply
from erasure_core.backends.diffusers import DiffusersModel
from erasure_core.closed_form import erase
from erasure_core.formats import load, save
from erasure_core.probe import probe_distance

CONCEPT = "circle | disc -> square"
PROMPTS = [
    "a red circle",
    "a blue square",
    "two yellow stars",
    "a green heart on a white background",
    "a purple disc",
    "a moon",
    "an orange ring",
    "a red triangle and a blue circle",
]
NEGATIVE = "black and white"
STEPS, CFG = 12, 5.0
ONE_LEVEL = 1 / 255
ROUNDING = 1e-4  # what is promised is one level; a wrong noise table or latent scale would hide below that


def noise_levels(scheduler):
    """Of every step and of the end, ``sqrt((1 - a) / a)`` with a the scheduler's cumulative product of alphas."""
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(STEPS)
    alphas = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]
    return [((1 - alpha) / alpha) ** 0.5 for alpha in alphas]


def noise(seed):
    return torch.randn((8, 8, 8), generator=torch.Generator().manual_seed(seed))


def by_the_pipeline(demo):
    """Pictures of the plain pipeline, called as its own documentation says."""
    made = [
        demo.pipe(
            prompt,
            negative_prompt=NEGATIVE,
            num_inference_steps=STEPS,
            guidance_scale=CFG,
            latents=noise(seed)[None],
            output_type="pt",
        ).images
        for seed, prompt in enumerate(PROMPTS)
    ]
    return torch.cat(made)


def under(demo, membrane, rows, act_on):
    with apply(demo, membrane, act_on, rows), torch.no_grad():
        made = [
            demo.sample(demo.encode([prompt]), demo.encode([NEGATIVE]), seed=seed, steps=STEPS, cfg=CFG)
            for seed, prompt in enumerate(PROMPTS)
        ]
        return demo.decode(torch.cat(made))


@pytest.fixture(scope="module")
def here(demo):
    """The erasure and the pictures of diffusers."""
    erasure = erase(demo, CONCEPT)
    return erasure, {
        "base": by_the_pipeline(demo),
        "cond": under(demo, Membrane(erasure, gate="words"), "cond", "text"),
        "all": under(demo, Membrane(erasure), "all", "weights"),
    }


@pytest.fixture(scope="module")
def there(demo, here, in_comfy, tmp_path_factory):
    """The same from ComfyUI: its answer, its pictures, and its folder of membranes."""
    base = tmp_path_factory.mktemp("pictures")
    folder = base / "models" / "membranes"
    folder.mkdir(parents=True)
    save(here[0], folder / "from-diffusers.safetensors")
    torch.save(torch.stack([noise(seed) for seed in range(len(PROMPTS))]), base / "noise.pt")
    answer = in_comfy(
        "demo_pictures",
        base=str(base),
        given=str(base / "noise.pt"),
        drawn=str(base / "drawn.pt"),
        prompts=PROMPTS,
        negative=NEGATIVE,
        sigmas=noise_levels(demo.pipe.scheduler),
        cfg=CFG,
        concept=CONCEPT,
        file="from-diffusers.safetensors",
    )
    return answer, torch.load(base / "drawn.pt", weights_only=True), folder


@pytest.mark.parametrize("form", ["base", "cond", "all"])
def test_every_picture_is_the_same(here, there, form):
    ours, theirs = there[1][form], here[1][form]
    assert ours.shape == theirs.shape == (len(PROMPTS), 3, 64, 64)
    errors = (ours - theirs).abs().flatten(1).mean(1)
    assert errors.max() <= ROUNDING


def test_the_measure_sees_an_erasure(here, there):
    base, spared, everywhere = (here[1][form] for form in ("base", "cond", "all"))
    named = [i for i, prompt in enumerate(PROMPTS) if "circle" in prompt or "disc" in prompt]
    for pictures in (here[1], there[1]):
        change = (pictures["cond"] - pictures["base"]).abs().flatten(1).mean(1)
        assert [i for i in range(len(PROMPTS)) if change[i] > 5 * ONE_LEVEL] == named
    closed = [i for i in range(len(PROMPTS)) if i not in named]
    assert torch.equal(there[1]["cond"][closed], there[1]["base"][closed])
    assert (everywhere - spared).abs().mean() > 0 < (everywhere - base).abs().mean()


@pytest.mark.parametrize(("name", "skip"), [("last", 1), ("skipped", 2)])
def test_erasing_there_is_erasing_here(demo, there, name, skip):
    answer, _, folder = there
    assert answer["clip_skip"][name] == skip
    theirs = load(folder / f"here-{name}.safetensors", demo)
    ours = erase(demo if skip == 1 else DiffusersModel(demo.pipe, skip, demo.neutrals), CONCEPT)
    assert {**theirs.recipe, "ridge": 0} == {**ours.recipe, "ridge": 0} and theirs.gate == ours.gate
    assert theirs.recipe["ridge"] == pytest.approx(ours.recipe["ridge"], rel=1e-6)
    one, other = (e.maps["clip_l"].matrix() - torch.eye(64, dtype=torch.float64) for e in (theirs, ours))
    assert (one - other).norm() <= 1e-4 * other.norm()
    assert probe_distance(theirs.base["probe"]["clip_l"], ours.base["probe"]["clip_l"]) <= 1e-3


def test_clip_skip_matters_and_is_noticed(there):
    answer, _, folder = there
    one, other = (load(folder / f"here-{name}.safetensors").maps["clip_l"].matrix() for name in ("last", "skipped"))
    assert (one - other).norm() > 0.1
    assert answer["refused"].startswith("WrongBase: This erasure was made with another text encoder or clip-skip")


def test_the_receipt_says_the_same_here_and_there(demo, here, there):
    with apply(demo, Membrane(here[0], gate="always")) as applied:
        assert there[0]["receipts"]["last"] == applied.receipt

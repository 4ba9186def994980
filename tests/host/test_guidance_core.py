"""The node Negative Guidance draws the same pictures in ComfyUI as the core does in diffusers."""

import pytest
import torch
from test_demo_pictures import CFG, ROUNDING, noise, noise_levels

from erasure_core import guidance

PROMPTS = ["a red circle", "a blue square", "circle"]
METHODS = {
    "off": ("negation", "circle", "strength=0"),
    "negative": ("negative", "circle", ""),
    "negation": ("negation", "circle", "mode=surgical"),
    "sld": ("sld", "circle", "preset=max, guidance_scale=2"),
    "sega": ("sega", "circle", ""),
    "perp_neg": ("perp_neg", "circle", "limit=0.5"),
    "all_but_one": ("all_but_one", "circle -> star", ""),
}
ACTING = [name for name in METHODS if name != "off"]


@pytest.fixture(scope="module")
def here(demo):
    made = {"plain": _draw(demo)}
    for name, (method, concepts, options) in METHODS.items():
        made[name] = _draw(demo, guidance.make_with(method, concepts, options))
    return made


def _draw(demo, *terms):
    with torch.no_grad():
        found = [
            demo.sample(demo.encode([prompt]), demo.encode([""]), seed=seed, steps=12, cfg=CFG, guidance=terms)
            for seed, prompt in enumerate(PROMPTS)
        ]
        return demo.decode(torch.cat(found))


@pytest.fixture(scope="module")
def there(demo, in_comfy, tmp_path_factory):
    base = tmp_path_factory.mktemp("guided")
    torch.save(torch.stack([noise(seed) for seed in range(len(PROMPTS))]), base / "noise.pt")
    counts = in_comfy(
        "guided_pictures",
        given=str(base / "noise.pt"),
        drawn=str(base / "drawn.pt"),
        prompts=PROMPTS,
        negative="",
        sigmas=noise_levels(demo.pipe.scheduler),
        cfg=CFG,
        methods=METHODS,
    )
    return torch.load(base / "drawn.pt", weights_only=True), counts


@pytest.mark.parametrize("name", METHODS)
def test_every_picture_is_the_same(here, there, name):
    errors = (there[0][name] - here[name]).abs().flatten(1).mean(1)
    assert errors.max() <= ROUNDING


@pytest.mark.parametrize("name", ACTING)
def test_terms_act_in_the_host(there, name):
    assert (there[0][name] - there[0]["plain"]).abs().flatten(1).mean(1).max() > 5 / 255


def test_off_is_bitwise_off_in_the_host(there):
    assert torch.equal(there[0]["off"], there[0]["plain"])


def test_the_host_evaluates_only_what_is_needed(there):
    counts = there[1]
    assert counts["off"] == counts["negative"] == [2] * 12
    assert set(counts["negation"]) == {2, 3} and counts["negation"][:1] == [2] and counts["negation"][-4:] == [2] * 4
    assert counts["all_but_one"] == [4] * 12

"""What the tests of the bench share: a judge of colours that needs no weights, small groups, a model that counts."""

from __future__ import annotations

from collections import Counter

import torch

from erasure_core.demo.world import COLOUR_RGB
from erasure_core.evaluation import make_group, reroll

STEPS = 5


class ColourJudge:
    """Names the colour of the strongly coloured pixels: the nearest of the eight, or "garbled"."""

    attributes = ("colour",)
    fingerprint = "colour-judge-1"

    def read(self, images):
        return [{"colour": self._name(image)} for image in images]

    def _name(self, image):
        spread = image.amax(0) - image.amin(0)
        pixels = image[:, spread > 0.35]
        if pixels.shape[1] < 0.05 * spread.numel() or pixels.std(dim=1).max() > 0.25:
            return "garbled"
        mean = pixels.mean(dim=1)
        away = {name: float((mean - torch.tensor(rgb) / 255).norm()) for name, rgb in COLOUR_RGB.items()}
        return min(away, key=away.__getitem__)


class CountingModel:
    """The model itself, counting what is asked of it."""

    def __init__(self, model):
        self._model = model
        self.calls = Counter()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, prompts):
        self.calls["encode"] += len(prompts)
        return self._model.encode(prompts)

    def sample(self, encoded, *args, **kwargs):
        self.calls["sample"] += len(encoded)
        return self._model.sample(encoded, *args, **kwargs)

    def decode(self, latents):
        self.calls["decode"] += len(latents)
        return self._model.decode(latents)


def small_groups():
    """Red as the concept: 4 direct, 2 misspelt, 6 neighbour, 2 + 2 unrelated prompts."""
    red = [(f"a red {shape}", {"colour": "red"}) for shape in ("circle", "square", "heart", "star")]
    wrong = [(text.replace("red", "rred"), expect) for text, expect in red[:2]]
    others = [
        (f"a {colour} {shape}", {"colour": colour})
        for colour in ("blue", "green", "purple")
        for shape in ("circle", "cross")
    ]
    calm = make_group("U", "unrelated", "unrelated", "colour", [("a yellow moon", {}), ("a cyan ring", {})], 1)
    return (
        make_group("D", "red", "direct", "colour", red, 1),
        make_group("M", "misspelt", "indirect", "colour", wrong, 1),
        make_group("N", "neighbours", "neighbour", "colour", others, 1),
        calm,
        reroll(calm, "U2"),
    )

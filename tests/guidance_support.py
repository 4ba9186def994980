"""Random runs for the tests of guidance: predictions over steps, and terms taken through them."""

import math

import torch

from erasure_core.guidance import Moment, Predictions, State, Units

STEPS = 14
W = 7.5
SHAPE = (3, 4, 5, 6)


def series(seed, steps=STEPS, shape=SHAPE, dtype=torch.float64, scale=1.0):
    """Random predictions over steps."""
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(steps)]


def near(other, seed, amount):
    """A series that differs from another by about ``amount``."""
    noise = series(seed, len(other), other[0].shape)
    return [a + amount * b for a, b in zip(other, noise, strict=True)]


def levels(steps=STEPS, first=14.6, last=0.05):
    """Falling noise levels, even in their logarithm."""
    return [first * (last / first) ** (i / max(steps - 1, 1)) for i in range(steps)]


def moments(steps=STEPS, sigmas=None):
    """Moments of steps with even progress i / steps."""
    return [Moment(s, i / steps) for i, s in enumerate(sigmas or levels(steps))]


def predictions(u, c, texts, i, x=None, w=W, sigmas=None, kind="eps", **more):
    """Those of step i of series; texts: name -> series."""
    at = moments(len(c), sigmas)[i]
    x = torch.zeros_like(c[i]) if x is None else x[i]
    units = Units.at(kind, at.sigma)
    inside = {name: values[i] for name, values in texts.items()}
    return Predictions(c[i], None if u is None else u[i], x, units, at, w, inside, **more)


def run(term, u, c, texts, **more):
    """The guided predictions of all steps, by one term."""
    state = State()
    return [term.step(state, predictions(u, c, texts, i, **more)) for i in range(len(c))]


def assert_equal(found, expected, tolerance=1e-6):
    """Every step within ``tolerance`` of the largest expected value."""
    assert len(found) == len(expected)
    for i, (ours, published) in enumerate(zip(found, expected, strict=True)):
        worst = float((ours - published).abs().max() / published.abs().max())
        assert worst <= tolerance and math.isfinite(worst), f"step {i}: {worst}"


def differs(found, plain):
    """How far the two are apart at most."""
    return max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True))

"""Fixtures that many tests share: the bundled model, loaded once, and copies of it that a test may break."""

import copy

import pytest
import torch

torch.set_num_threads(1)  # results must repeat, and spinning threads on shared cores are slow


@pytest.fixture(scope="session")
def demo():
    """The bundled model. Tests share it: whatever is applied to it must be undone again."""
    pytest.importorskip("diffusers")
    from erasure_core.models import load_demo

    return load_demo()


@pytest.fixture
def fresh(demo):
    """A copy with its own denoiser and text encoder, whose weights a test may change."""
    from erasure_core.backends.diffusers import DiffusersModel

    parts = dict(demo.pipe.components)
    parts["unet"], parts["text_encoder"] = (copy.deepcopy(parts[name]) for name in ("unet", "text_encoder"))
    pipe = type(demo.pipe)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return DiffusersModel(pipe, neutrals=demo.neutrals)


@pytest.fixture(scope="session")
def plain(demo):
    """The bundled model's own tokenizer and text encoder, called without any code of the core."""
    from plain_text import PlainText

    return PlainText(demo.pipe.tokenizer, demo.pipe.text_encoder)


@pytest.fixture(scope="session")
def circle(demo):
    """Circle onto square, by our defaults."""
    from erasure_core.closed_form import erase

    return erase(demo, "circle -> square")


@pytest.fixture(scope="session")
def heart(demo):
    """Heart onto star, by our defaults."""
    from erasure_core.closed_form import erase

    return erase(demo, "heart -> star")

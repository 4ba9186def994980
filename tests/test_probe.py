"""The fingerprint of a text encoder: blind to precision, close for a little training, far for another encoder."""

import base64

import numpy as np
import pytest
import torch

from erasure_core.closed_form import erase
from erasure_core.errors import WrongBase
from erasure_core.membranes import Membrane, apply
from erasure_core.probe import CLOSE, PROMPTS, SAME, check_encoder, probe, probe_distance


@pytest.fixture(scope="module")
def made_on(demo):
    return probe(demo)


def disturb(model, scale):
    """Noise of ``scale`` times each matrix' own spread on the text encoder."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.pipe.text_encoder.parameters():
            if parameter.dim() > 1:
                parameter += torch.randn(parameter.shape, generator=generator) * parameter.std() * scale


def test_a_probe_is_eight_prompts_by_sixteen_directions_in_half_precision(made_on):
    assert made_on.keys() == {"clip_l"}
    assert len(base64.b64decode(made_on["clip_l"])) == 8 * 16 * 2
    assert len(set(PROMPTS)) == 8


def test_a_probe_projects_the_mean_row_of_words_and_end(demo, plain, made_on):
    numbers = np.frombuffer(base64.b64decode(made_on["clip_l"]), dtype="<f2").reshape(8, 16)
    directions = np.random.default_rng(64).standard_normal((64, 16)) / 8
    for prompt, found in zip(PROMPTS, numbers, strict=True):
        mean = plain.rows(prompt)[1 : plain.last(prompt) + 2].double().mean(0).numpy()
        np.testing.assert_allclose(found, mean @ directions, rtol=2e-3, atol=2e-3)


def test_the_same_encoder_has_distance_zero_and_no_remark(demo, made_on):
    assert probe_distance(made_on["clip_l"], probe(demo)["clip_l"]) == 0.0
    assert check_encoder(made_on, demo) == ""


def test_a_copy_in_half_precision_is_the_same_encoder(fresh, made_on):
    fresh.pipe.text_encoder.half()
    distance = probe_distance(made_on["clip_l"], probe(fresh)["clip_l"])
    assert 0 < distance <= SAME
    assert check_encoder(made_on, fresh) == ""


def test_a_slightly_trained_encoder_is_close_and_the_receipt_says_so(fresh, demo, made_on):
    disturb(fresh, 0.03)
    distance = probe_distance(made_on["clip_l"], probe(fresh)["clip_l"])
    assert SAME < distance <= CLOSE
    note = check_encoder(made_on, fresh)
    assert f"distance {distance:.2f}" in note
    assert "Erase again" in note
    with apply(fresh, Membrane(erase(demo, "circle -> square"))) as applied:
        assert note in applied.receipt


def test_another_encoder_is_refused(fresh, made_on):
    disturb(fresh, 1.0)
    assert probe_distance(made_on["clip_l"], probe(fresh)["clip_l"]) > CLOSE
    with pytest.raises(WrongBase, match=r"another text encoder or clip-skip \(distance \d\.\d\d\).*Erase again"):
        check_encoder(made_on, fresh)


def test_another_clip_skip_is_refused(demo, made_on):
    from erasure_core.backends.diffusers import DiffusersModel

    with pytest.raises(WrongBase, match="clip-skip"):
        check_encoder(made_on, DiffusersModel(demo.pipe, clip_skip=2))


def test_probes_of_different_sizes_are_infinitely_far(made_on):
    assert probe_distance(made_on["clip_l"], base64.b64encode(b"\0" * 64).decode()) == float("inf")

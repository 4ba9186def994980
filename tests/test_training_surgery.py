"""DoCo's gradient surgery against float64 loops, and inside real updates."""

import pytest
import torch
from training_support import gradients, opened, shaken

from erasure_core.training.surgery import operated


def plain(erasing, keeping):
    """The rule number by number."""
    g_e, g_p = erasing.double().flatten().tolist(), keeping.double().flatten().tolist()
    dot = sum(a * b for a, b in zip(g_e, g_p, strict=True))
    factor = min(0.0, dot) / (sum(b * b for b in g_p) + 1e-12)
    return torch.tensor([a - factor * b + b for a, b in zip(g_e, g_p, strict=True)]).reshape(erasing.shape)


def test_the_component_against_the_preserving_gradient_is_gone():
    generator = torch.Generator().manual_seed(0)
    conflicts = 0
    for _ in range(20):
        erasing, keeping = torch.randn(4, 7, generator=generator), torch.randn(4, 7, generator=generator) * 3
        found = operated(erasing, keeping)
        assert (found - plain(erasing, keeping)).abs().max() <= 1e-6
        assert float(((found - keeping) * keeping).sum()) >= -1e-5
        if float((erasing * keeping).sum()) >= 0:
            assert torch.equal(found, erasing + keeping)
        else:
            conflicts += 1
            assert not torch.allclose(found, erasing + keeping)
    assert 5 <= conflicts <= 15


def test_nothing_to_preserve_changes_nothing():
    erasing = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(operated(erasing, torch.zeros(3, 3)), erasing)


@pytest.fixture
def model(demo):
    pytest.importorskip("diffusers")
    return demo


def slopes(model, **options):
    with opened(model, word_anchors=2, lr=1e-3, **options) as trainer:
        shaken(trainer)
        losses = trainer.update()
        return gradients(trainer), losses


def test_an_update_is_operated_on_where_gradients_conflict_and_only_there(model):
    both, losses = slopes(model)
    erasing, without = slopes(model, anchor_weight=0.0)
    found, operated_losses = slopes(model, surgery=True)
    assert losses == pytest.approx(operated_losses, rel=1e-5) and losses[0] == pytest.approx(without[0], rel=1e-5)
    changed = 0
    for name, own in both.items():
        g_e = erasing[name]
        g_p = own.double() - g_e.double()
        size = float(own.abs().max())
        if float((g_e * g_p).sum()) < -1e-4 * float(g_e.norm() * g_p.norm()):
            changed += 1
            assert (found[name] - own).abs().max() > 1e-6 * size
        elif float((g_e * g_p).sum()) > 0:
            assert (found[name] - own).abs().max() <= 1e-6 * size + 1e-9
        assert (found[name] - plain(g_e, g_p)).abs().max() <= 1e-6 * max(1.0, size)
    assert 0 < changed < len(both)


def test_small_batches_give_the_same_update(model):
    whole, losses = slopes(model, surgery=True)
    for micro in (1, 3):
        parts, again = slopes(model, surgery=True, micro=micro)
        assert again == pytest.approx(losses, rel=1e-5)
        for name, own in whole.items():
            assert (parts[name] - own).abs().max() <= 1e-6 * max(1.0, float(own.abs().max()))

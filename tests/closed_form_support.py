"""What the tests of closed-form methods share: the denoiser's matrices, the comparison of every one, equality."""

import torch

TOLERANCE = 1e-6  # relative, of every single matrix' change


def matrices(model, part="kv"):
    """The denoiser's own cross-attention matrices by canonical name, read without the core."""
    found = {f"unet.{name}": p.detach().clone() for name, p in model.pipe.unet.named_parameters()}
    return {n: w for n, w in found.items() if n.endswith(tuple(f".attn2.to_{letter}.weight" for letter in part))}


def assert_edited(erasure, model, edited, part="kv", tolerance=TOLERANCE):
    """Every matrix' change is that of ``edited(weight)``, or of ``edited[name]``, within the tolerance."""
    weights = matrices(model, part)
    deltas = erasure.deltas(model.weights())
    assert deltas.keys() == weights.keys()
    for name, weight in weights.items():
        expected = (edited(weight) if callable(edited) else edited[name]).double() - weight.double()
        error = (deltas[name].dense().double() - expected).norm() / expected.norm()
        assert error <= tolerance, f"{name}: {error:.1e}"


def single_precision_tolerance(rows, ridge):
    """What float32 with an explicit inverse may differ by: 2e-2, or 1e-7 of the condition of the Gram matrix."""
    condition = torch.linalg.eigvalsh(rows.double().T @ rows.double())[-1] / ridge + 1
    return max(2e-2, 1e-7 * condition.item())


def same(one, other, recipe=False):
    """Equal maps to the last bit; with ``recipe`` equal in everything."""
    if recipe and any(getattr(one, n) != getattr(other, n) for n in ("recipe", "base", "gate", "diagnostics")):
        return False
    return one.maps.keys() == other.maps.keys() and all(
        torch.equal(a.up, b.up)
        and torch.equal(a.down, b.down)
        and (a.bias is None) == (b.bias is None)
        and (a.bias is None or torch.equal(a.bias, b.bias))
        for space in one.maps
        for a, b in zip(one.maps[space].factors, other.maps[space].factors, strict=True)
    )

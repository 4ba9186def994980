"""Faults that packs and published code for guidance have been seen with; each test fails on the fault it is about."""

import itertools

import pytest
import torch
from guidance_support import STEPS, W, differs, moments, near, predictions, run, series

from erasure_core import guidance
from erasure_core.guidance import PRESETS, Moment, Run, State, Window
from erasure_core.guidance.attention import attention_negative, text_rows, vsf
from erasure_core.guidance.attention.heads import attend

SHAPE = (3, 4, 5, 6)
U, C, N = series(1), series(2), series(3)
TEXTS = {"circle": N, "square": series(4)}
PLAIN = [u + W * (c - u) for u, c in zip(U, C, strict=True)]


def whole_batch(u, c, n, w):
    """Perpendicular negatives as two published implementations have them: one inner product for the whole batch."""
    pos, neg = c - u, n - u
    return u + w * (pos - (neg - (neg * pos).sum() / pos.norm() ** 2 * pos))


def test_perpendicular_means_perpendicular_for_each_picture():
    u, c = U[0], C[0]
    n = u + torch.tensor([1.0, -1.0, 0.3], dtype=torch.float64).reshape(3, 1, 1, 1) * (c - u) + 0.1 * N[0]
    found = run(guidance.perp_neg("circle"), [u], [c], {"circle": [n]})[0]
    for sample in range(3):
        alone = run(
            guidance.perp_neg("circle"),
            [u[sample : sample + 1]], [c[sample : sample + 1]], {"circle": [n[sample : sample + 1]]},
        )[0]  # fmt: skip
        assert torch.allclose(found[sample], alone[0], atol=1e-12)
        faulty = whole_batch(u, c, n, W)[sample] - whole_batch(*(v[sample : sample + 1] for v in (u, c, n)), W)[0]
        assert faulty.abs().max() > 0.1, "the fault would show here"
        removed, pos = (u + W * (c - u) - found)[sample].flatten(), (c - u)[sample].flatten()
        assert abs(removed @ pos) <= 1e-6 * removed.norm() * pos.norm()


def test_a_negative_that_is_the_prompt_scaled_changes_nothing_with_perp_neg():
    n = [u + 0.7 * (c - u) for u, c in zip(U, C, strict=True)]
    assert differs(run(guidance.perp_neg("circle"), U, C, {"circle": n}), PLAIN) < 1e-9


@pytest.mark.parametrize("name", PRESETS)
def test_norms_and_limits_are_of_one_picture(name):
    """A neighbour a thousand times as large must not use up anybody's limit."""
    term = guidance.make(name, "circle -> square", limit=0.5)
    loud = [torch.tensor([1.0, 1e3, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1) * v for v in N]
    calm, beside = run(term, U, C, TEXTS), run(term, U, C, {**TEXTS, "circle": loud})
    assert max((a[[0, 2]] - b[[0, 2]]).abs().max() for a, b in zip(calm, beside, strict=True)) < 1e-9
    assert max((a[1] - b[1]).abs().max() for a, b in zip(calm, beside, strict=True)) > 1e-3 or name == "perp_neg"


def test_a_negative_prompt_fails_where_the_prompt_is_the_concept_and_negation_holds():
    same = {"circle": C}
    assert differs(run(guidance.negative("circle"), U, C, same), C) < 1e-12  # plain sampling of the concept
    assert differs(run(guidance.negation("circle"), U, C, same), U) < 1e-12  # nothing of it
    anchored = run(guidance.all_but_one("circle -> square"), U, C, {"circle": C, "square": N})
    assert differs(anchored, [u + W * (n - u) for u, n in zip(U, N, strict=True)]) < 1e-9


def test_sld_is_no_op_on_its_own_text_as_published_and_not_with_a_floor():
    same = {"circle": C}
    assert differs(run(guidance.sld("circle", preset="max"), U, C, same), PLAIN) == 0
    for term in (guidance.sld("circle", preset="balanced"), guidance.sld("circle", preset="max", floor=0.1)):
        assert differs(run(term, U, C, same), PLAIN) > 0.1


def test_an_absolute_threshold_depends_on_the_model_and_a_relative_one_does_not():
    n = near(C, 5, 0.1)
    options = {"guidance_scale": 10000, "warmup": 0, "momentum_scale": 0, "threshold": 0.05}

    def density(scale, **more):
        traces, given = [], [[scale * v for v in values] for values in (U, C, n)]
        runs = Run([guidance.sld("circle", **options, **more)], W, traces=traces)
        for i in range(3):
            runs.needs(moments()[i], SHAPE)
            runs.combine(predictions(given[0], given[1], {"circle": given[2]}, i))
        return torch.stack([trace.edits[0].density for trace in traces]).mean()

    assert abs(density(1.0) - density(10.0)) > 0.1
    assert abs(density(1.0, relative=True) - density(10.0, relative=True)) < 0.01


def test_momentum_is_not_fed_by_calls_that_are_no_steps():
    """A counter of calls would run the warm-up through twice as fast with a sampler that evaluates twice."""
    term = guidance.sld("circle", warmup=0.5)
    state = State()
    for i in [0, *(i for i in range(1, STEPS) for _ in range(2))]:
        found = term.step(state, predictions(U, C, TEXTS, i))
        assert torch.equal(found, PLAIN[i]) == (i < 7)


def test_a_closed_window_evaluates_nothing_and_touches_nothing():
    term = guidance.negation("circle", start=0.3, end=0.5, ramp=0)
    run_ = Run([term], W)
    for i, at in enumerate(moments()):
        needs = run_.needs(at, SHAPE)
        inside = 0.3 <= at.progress < 0.5
        assert bool(needs.texts) == inside
        found = run_.combine(predictions(U, C, TEXTS if inside else {}, i))
        assert torch.equal(found, PLAIN[i]) != inside


@pytest.mark.parametrize("name", PRESETS)
def test_predictions_are_never_written_to(name):
    kept = [[v.clone() for v in values] for values in (U, C, N)]
    run(guidance.make(name, "circle -> square"), U, C, TEXTS)
    for values, before in zip((U, C, N), kept, strict=True):
        assert all(torch.equal(v, b) for v, b in zip(values, before, strict=True))


def test_the_branch_that_a_host_did_not_evaluate_is_never_read():
    """Without guidance some hosts hand zeros for the unconditional; a term asks for the real one or reads none."""
    for name in PRESETS:
        term = guidance.make(name, "circle -> square")
        for i, at in enumerate(moments()):
            run_ = Run([term], 1.0)
            needs = run_.needs(at, SHAPE)
            if not needs.uncond:
                zeros, other = ([torch.full_like(v, fill) for v in U] for fill in (0.0, 7.0))
                a, b = (run_.combine(predictions(u, C, TEXTS, i, w=1.0)) for u in (zeros, other))
                assert torch.equal(a, b)


def test_a_negative_is_read_apart_from_the_prompt_and_its_weight_does_not_stretch_keys():
    """Negative weights inside one prompt share its pass through the text encoder, and scale keys beside values."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, n = (torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(4))

    def one_prompt(weight):
        return attend(q, torch.cat([k, weight * n], 2), torch.cat([v, -weight * n], 2))

    def ours(weight):
        return vsf.attention(q, k, v, [(n, n)], vsf.Settings(alpha=weight, beta=0.0))

    assert (ours(1.0) - one_prompt(1.0)).abs().max() < 1e-12  # at weight 1 they are the same formula
    assert (ours(2.0) - one_prompt(2.0)).abs().max() > 0.1, "the fault would show here"
    # which keys win is no matter of alpha: the change grows with it in proportion
    base = ours(0.0)
    assert torch.allclose(ours(2.0) - base, 2 * (ours(1.0) - base), atol=1e-12)


def test_the_prompt_does_not_leak_into_the_negative(demo):
    """The words of a negative are encoded by themselves: it is the same beside any prompt, and the prompt beside it."""
    term = attention_negative(demo, "a red circle", gate="always")
    (text,) = term.texts
    shared = demo.encode(["a blue star, a red circle"])
    assert torch.equal(text, text_rows(demo.encode(["a red circle"]), 0, "words+end"))
    assert (shared.hidden[:, 5:8] - text[:, :3]).abs().max() > 0.05, "in one prompt they would differ"


def test_a_ramp_has_no_jump():
    window = Window(0.3, 0.5, 0.1)
    gains = [window.gain(p / 1000) for p in range(1001)]
    assert max(abs(a - b) for a, b in itertools.pairwise(gains)) < 0.011


def test_terms_keep_no_state_between_runs():
    term = guidance.sld("circle")
    first, second = (run(term, U, C, TEXTS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    interleaved = Run([term], W), Run([term], W)
    for i in range(STEPS):
        for one in interleaved:
            at = Moment(moments()[i].sigma, moments()[i].progress)
            one.needs(at, SHAPE)
            assert torch.equal(one.combine(predictions(U, C, TEXTS, i)), first[i])

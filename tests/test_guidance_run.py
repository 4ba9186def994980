"""Noise, progress, memory and several terms at once: what holds for any sampler and any kind of prediction."""

import math
from dataclasses import replace

import pytest
import torch
from guidance_support import SHAPE, STEPS, W, differs, levels, moments, near, predictions, run, series

from erasure_core import guidance
from erasure_core.errors import BadInput
from erasure_core.guidance import (
    PRESETS,
    DiscreteClock,
    FlowClock,
    HostClock,
    Moment,
    Needs,
    Predictions,
    Run,
    State,
    Units,
    Window,
)

U, C, N, A = series(1), series(2), series(3), series(4)
TEXTS = {"circle": N, "square": A}
PLAIN = [u + W * (c - u) for u, c in zip(U, C, strict=True)]
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
PROGRESS = (0.10, 0.17, 0.22, 0.33, 0.50, 0.67, 0.80, 0.86)


def sd_clock():
    kept = torch.cumprod(1 - BETAS, 0)
    return DiscreteClock(((1 - kept) / kept).sqrt())


@pytest.mark.parametrize(
    ("clock", "expected", "tolerance"),
    [
        (sd_clock(), (8.30, 5.85, 4.65, 2.95, 1.62, 0.92, 0.57, 0.43), 0.01),
        (FlowClock(), (0.90, 0.83, 0.78, 0.67, 0.50, 0.33, 0.20, 0.14), 1e-9),
        (FlowClock(3.0), (0.96, 0.94, 0.91, 0.86, 0.75, 0.60, 0.43, 0.33), 0.006),
        (HostClock(FlowClock(3.0).sigma), (0.96, 0.94, 0.91, 0.86, 0.75, 0.60, 0.43, 0.33), 0.006),
    ],
)
def test_progress_is_the_published_noise_level_and_back(clock, expected, tolerance):
    for progress, sigma in zip(PROGRESS, expected, strict=True):
        assert clock.sigma(progress) == pytest.approx(sigma, abs=tolerance)
        assert clock.progress(clock.sigma(progress)) == pytest.approx(progress, abs=1e-6)
    assert clock.progress(1e9) == pytest.approx(0, abs=1e-6) and clock.progress(0.0) == pytest.approx(1, abs=1e-6)


def test_half_of_the_run_is_where_a_host_puts_it():
    assert sd_clock().sigma(0.5) == pytest.approx(1.616, abs=5e-4)
    assert sd_clock().sigma(0.0) == math.inf and sd_clock().sigma(1.0) == 0


def test_windows_have_their_ramps_outside():
    window = Window(0.2, 0.5, 0.1)
    gains = [window.gain(p) for p in (0.0, 0.1, 0.15, 0.2, 0.4, 0.5, 0.55, 0.6, 1.0)]
    assert gains == pytest.approx([0, 0, 0.5, 1, 1, 1, 0.5, 0, 0])
    assert [Window(0.2, 0.5).gain(p) for p in (0.19, 0.2, 0.49, 0.5)] == [0, 1, 1, 0]
    assert [Window(0, 1, 0.1).gain(p) for p in (0.0, 0.5, 1.0)] == [1, 1, 1]
    assert not any(Window(0.5, 0.5, 0.3).gain(p / 100) for p in range(101))
    with pytest.raises(BadInput, match="from 0 to 1"):
        Window(0.2, 1.5)


@pytest.mark.parametrize("sigma", [14.6, 1.0, 0.03])
def test_pictures_and_predictions_are_inverse_in_every_kind(sigma):
    x, raw = series(5, 2)
    for kind in ("eps", "v", "x0", "flow", "flow-x0"):
        units = Units.at(kind, min(sigma, 0.97) if "flow" in kind else sigma)
        assert torch.allclose(units.prediction(units.picture(raw, x), x), raw, atol=1e-9)
        change = 0.1 * x
        moved = units.picture(raw + change / units.factor, x) - units.picture(raw, x)
        assert torch.allclose(moved, -units.span * change, atol=1e-9)
        scores = units.score(raw + change / units.factor, x) - units.score(raw, x)
        assert torch.allclose(scores, change, atol=1e-9)


def in_kind(kind, sigma, pictures, w=W):
    """Predictions of a kind that stand for the same pictures; x is the same noise on the same picture."""
    flow = kind.startswith("flow")
    units = Units("x0", 1.0, sigma) if kind == "ve" else Units.at(kind, sigma)
    x = units.signal * pictures["x0"] + units.noise * pictures["noise"]
    raw = {name: units.prediction(picture, x) for name, picture in pictures.items()}
    at = Moment(sigma, 1 - sigma if flow else 0.4)
    return Predictions(raw["c"], raw["u"], x, units, at, w, {"circle": raw["n"], "square": raw["a"]})


PARTS = ("x0", "noise", "u", "c", "n", "a")


@pytest.mark.parametrize("name", PRESETS)
def test_every_kind_of_prediction_gives_the_same_picture(name):
    pictures = {
        key: series(seed, 1, dtype=torch.float32)[0] for seed, key in enumerate(("x0", "noise", "u", "c", "n", "a"))
    }
    sigma = 0.7
    kinds = ["eps", "v", "x0", "ve"]
    if name in ("negative", "negation", "all_but_one", "perp_neg"):
        kinds += ["flow", "flow-x0"]  # linear, or invariant to scale: any space will do
    more = {"warmup": "0" if name == "sega" else 0} if name in ("sld", "sega") else {}
    term = guidance.make(name, "circle -> square", **more)
    found = []
    for kind in kinds:
        given = in_kind(kind, sigma, pictures)
        found.append(given.units.picture(term.step(State(), given), given.x))
    for other in found[1:]:
        assert torch.allclose(other, found[0], rtol=0, atol=1e-5 * float(found[0].abs().max()))
    plain = W * (pictures["c"] - pictures["u"]) + pictures["u"]
    assert (found[0] - plain).abs().max() > 0.01


def test_thresholds_of_flows_count_in_velocity_and_do_not_vanish_at_the_start():
    pictures = {key: series(seed, 1)[0] for seed, key in enumerate(PARTS)}
    given = in_kind("flow", 1 - 1e-6, pictures)
    term = guidance.sld("circle", guidance_scale=20, threshold=0.0, warmup=0, momentum_scale=0)
    moved = term.step(State(), given) - given.guided
    assert ((moved.abs() > 1e-3).double().mean() - 0.5).abs() < 0.1


def heun(steps):
    """Steps as Heun visits them: each level but the first twice."""
    return [0, *(i for i in range(1, steps) for _ in range(2))]


WITH_MEMORY = [("sld", {}), ("sega", {}), ("dng", {"evidence": "predictions"}), ("negative", {"adaptive": True})]


@pytest.mark.parametrize(("name", "options"), WITH_MEMORY)
def test_visiting_a_level_twice_is_one_step(name, options):
    term = guidance.make(name, "circle", **options)
    expected = run(term, U, C, TEXTS)
    state = State()
    for i in heun(STEPS):
        assert torch.equal(term.step(state, predictions(U, C, TEXTS, i)), expected[i])


@pytest.mark.parametrize(("name", "options"), WITH_MEMORY)
def test_levels_between_those_of_the_schedule_are_no_steps(name, options):
    term = guidance.make(name, "circle", **options)
    expected = run(term, U, C, TEXTS)
    state = State(levels())
    for i in range(STEPS):
        assert torch.equal(term.step(state, predictions(U, C, TEXTS, i)), expected[i])
        between = predictions(U, C, TEXTS, i)
        at = Moment(between.at.sigma * 0.95, between.at.progress)
        term.step(state, Predictions(N[i], A[i], between.x, between.units, at, W, between.texts))


@pytest.mark.parametrize(("name", "options"), WITH_MEMORY)
def test_a_rising_level_or_another_shape_is_a_new_run(name, options):
    term = guidance.make(name, "circle", **options)
    expected = run(term, U, C, TEXTS)
    state = State()
    for _ in range(2):
        for i in range(STEPS):
            assert torch.equal(term.step(state, predictions(U, C, TEXTS, i)), expected[i])
    fresh = State()
    for i in range(5):
        term.step(fresh, predictions([v[:1] for v in U], [v[:1] for v in C], {"circle": [v[:1] for v in N]}, i))
    later = [term.step(fresh, predictions(U, C, TEXTS, i)) for i in range(5, STEPS)]
    alone = State()
    assert all(torch.equal(a, term.step(alone, predictions(U, C, TEXTS, i))) for i, a in enumerate(later, 5))
    if name != "negative":  # whose samples may be open already
        assert differs(later, expected[5:]) > 1e-6


def combined(terms, **more):
    run, out = Run(terms, W, **more), []
    for i in range(STEPS):
        at = moments()[i]
        needs = run.needs(at, SHAPE)
        uncond = U[i] if needs.stand_in is None else TEXTS[needs.stand_in][i]
        given = predictions(U, C, {text: TEXTS[text] for text in needs.texts}, i)
        out.append(run.combine(replace(given, uncond=uncond, stand_in=needs.stand_in)))
    return out


MIXED = [guidance.sld("circle"), guidance.negation("square", mode="surgical"), guidance.perp_neg("circle")]


def test_terms_add_up_in_any_order():
    found = combined(MIXED)
    assert differs(found, combined(MIXED[::-1])) < 1e-12
    alone = [combined([term]) for term in MIXED]
    for i in range(STEPS):
        total = PLAIN[i] + sum(part[i] - PLAIN[i] for part in alone)
        assert torch.allclose(found[i], total, atol=1e-12)


def test_a_text_that_several_terms_need_is_asked_for_once():
    run = Run(MIXED, W)
    asked = [run.needs(at, SHAPE).texts for at in moments()]
    assert {tuple(sorted(texts)) for texts in asked} == {("circle",), ("circle", "square")}


def test_a_term_asks_for_its_text_only_where_it_acts():
    run = Run([guidance.negation("circle", start=0.3, end=0.5, ramp=0.1)], W)
    asked = [bool(run.needs(at, SHAPE).texts) for at in moments(20, levels(20))]
    assert [i for i, yes in enumerate(asked) if yes] == [5, 6, 7, 8, 9, 10, 11]
    never = Run([guidance.negation("circle", start=0.5, end=0.5), guidance.sld("circle", guidance_scale=0.5)], W)
    assert all(never.needs(at, SHAPE) == Needs(uncond=True) for at in moments())


def test_a_window_before_an_image_to_image_run_never_opens():
    clock = sd_clock()
    schedule = [clock.sigma(0.5 + 0.05 * i) for i in range(10)]
    run = Run([guidance.negation("circle", end=0.4, ramp=0.1), guidance.sld("circle", end=0.5)], W)
    assert all(not run.needs(Moment(s, clock.progress(s)), SHAPE).texts for s in schedule)


def test_schedules_and_samplers_meet_the_same_window():
    clock = sd_clock()
    even = [clock.sigma(i / 20) if i else 14.61 for i in range(20)]
    rho = 7.0
    karras = [(14.61 ** (1 / rho) + i / 19 * (0.03 ** (1 / rho) - 14.61 ** (1 / rho))) ** rho for i in range(20)]
    term = guidance.negation("circle", mode="surgical", ramp=0)
    for schedule in (even, karras, [s for s in karras for _ in range(2)]):
        run = Run([term], W)
        acting = [s for s in schedule if run.needs(Moment(s, clock.progress(s)), SHAPE).texts]
        assert acting == [s for s in schedule if clock.sigma(0.5) < s <= clock.sigma(0.17)]
        assert acting


def test_a_plain_negative_prompt_stands_in_for_the_empty_one():
    run = Run([guidance.negative("circle", end=0.5, ramp=0.1)], W)
    asked = [run.needs(at, SHAPE) for at in moments(20, levels(20))]
    assert asked[:10] == [Needs(uncond=True, stand_in="circle")] * 10
    assert asked[11] == Needs(uncond=True, texts=("circle",))
    assert asked[12:] == [Needs(uncond=True)] * 8
    found = combined([guidance.negative("circle")])
    assert all(torch.equal(f, n + W * (c - n)) for f, n, c in zip(found, N, C, strict=True))
    short = guidance.sega("square", warmup="0", cooldown="0.3", momentum_scale=0.9)  # its momentum outlives it
    both, own = combined([guidance.negative("circle"), short]), combined([short])
    for i in range(STEPS):
        expected = N[i] + W * (C[i] - N[i]) + own[i] - PLAIN[i]
        assert torch.allclose(both[i], expected, atol=1e-12)
    assert differs([own[6]], [PLAIN[6]]) > 0.01
    beside = combined([guidance.negative("circle"), guidance.negation("square")])
    expected = [n + W * (c - n) - W * (a - u) for n, c, a, u in zip(N, C, A, U, strict=True)]
    assert differs(beside, expected) < 1e-12


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cfg", [7.5, 1.0])
def test_an_injected_pair_gives_the_same_through_a_hosts_own_guidance(name, cfg):
    terms = [guidance.make(name, "circle -> square"), guidance.negation("square", w_n=3.0)]
    run = Run(terms, cfg)
    again = Run(terms, cfg)
    for i in range(STEPS):
        needs, _ = run.needs(moments()[i], SHAPE), again.needs(moments()[i], SHAPE)
        assert needs.stand_in is None
        given = predictions(U if needs.uncond else None, C, TEXTS, i, w=cfg)
        cond, uncond = run.inject(given)
        host = cond if cfg == 1 else uncond + cfg * (cond - uncond)
        assert torch.allclose(host, again.combine(given), atol=1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_without_guidance_a_term_works_or_says_so(name):
    term = guidance.make(name, "circle -> square")
    run = Run([term], 1.0)
    found = []
    for i in range(STEPS):
        needs = run.needs(moments()[i], SHAPE)
        zeros = [torch.zeros_like(v) for v in U]  # what some hosts hand over for a branch they did not evaluate
        given = predictions(U if needs.uncond else zeros, C, {t: TEXTS[t] for t in needs.texts}, i, w=1.0)
        found.append(run.combine(given))
    if name == "negative":
        assert "which is not used at guidance scale (cfg) 1, so it does nothing" in term.inactive(1.0)
        assert all(torch.equal(f, c) for f, c in zip(found, C, strict=True))
    else:
        assert term.inactive(1.0) == ""
        assert differs(found, C) > 0.1
    assert term.inactive(W) == guidance.make(name, "circle", strength=0).inactive(1.0) == ""


def test_the_unconditional_is_asked_for_only_where_it_is_read():
    clock = moments()[3]
    assert Run([], 1.0).needs(clock, SHAPE) == Needs()
    assert Run([guidance.negation("circle", start=0.9)], 1.0).needs(clock, SHAPE) == Needs()
    assert Run([guidance.negation("circle")], 1.0).needs(clock, SHAPE) == Needs(True, ("circle",))


@pytest.mark.parametrize("kappa", [0.2, 1.0])
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "dng"])
def test_the_limit_holds_for_every_sample(name, kappa):
    n = near(U, 6, 40.0)
    term = guidance.make(name, "circle", limit=kappa)
    found = run(term, U, C, {"circle": n})
    for f, p, u, c in zip(found, PLAIN, U, C, strict=True):
        push, own = (f - p).flatten(1).norm(dim=1), W * (c - u).flatten(1).norm(dim=1)
        assert (push <= kappa * own * (1 + 1e-9)).all()
    assert max((f - p).flatten(1).norm(dim=1).max() for f, p in zip(found, PLAIN, strict=True)) > kappa * 10
    nothing = run(term, U, U, {"circle": n})  # an empty prompt: c = 0
    for f, u in zip(nothing, U, strict=True):
        push = (f - u).flatten(1).norm(dim=1)
        assert (push <= 0.1 * kappa * u.flatten(1).norm(dim=1) * (1 + 1e-9)).all()
    if name not in ("perp_neg", "all_but_one"):  # an empty prompt holds nothing that these could take away
        assert differs(nothing, U) > 1e-3


def test_the_limit_on_the_sum_counts_all_terms_once():
    terms = [guidance.negation("circle", w_n=20), guidance.negation("square", w_n=20)]
    found = combined(terms, limit=0.5)
    for f, p, u, c in zip(found, PLAIN, U, C, strict=True):
        own = W * (c - u).flatten(1).norm(dim=1)
        assert torch.allclose((f - p).flatten(1).norm(dim=1), 0.5 * own, rtol=1e-9)
    far = combined(terms, limit=1e9)
    assert differs(far, combined(terms)) < 1e-9


def test_traces_say_what_each_term_did():
    traces = []
    combined(
        [guidance.sega("circle", threshold="0.9", warmup="0.3"), guidance.sld("square", preset="max")], traces=traces
    )
    sega = [trace for trace in traces if trace.term == "sega"]
    assert [round(trace.at.progress * STEPS) for trace in sega] == list(range(5, STEPS))
    assert all(torch.allclose(t.edits[0].density, torch.full((3,), 0.1, dtype=torch.float64)) for t in sega)
    sld = [trace for trace in traces if trace.term == "sld"]
    assert len(sld) == STEPS and sld[0].edits[0].text == "square"
    assert all((trace.edits[0].density > 0.5).all() and (trace.share > 0.1).all() for trace in sld)


def test_beliefs_that_stay_low_stop_the_evaluation_until_the_next_quarter():
    term = guidance.dng("circle", evidence="predictions", prior=0.002)
    steps = 40
    run, asked = Run([term], W), []
    u, c = series(1, steps), series(2, steps)
    for i, at in enumerate(moments(steps, levels(steps))):
        needs = run.needs(at, SHAPE)
        asked.append(bool(needs.texts))
        n = [ci + 3 * (ci - ui) for ci, ui in zip(c, u, strict=True)]  # further from the prompt than the empty text
        given = predictions(u, c, {"circle": n} if needs.texts else {}, i, sigmas=levels(steps))
        found = run.combine(given)
        if not needs.texts:
            assert torch.equal(found, given.guided)
    assert [i for i, yes in enumerate(asked) if yes] == [0, 1, 2, 10, 11, 20, 21, 30, 31]


@pytest.mark.parametrize("evidence", ["kernel", "predictions"])
def test_a_sample_left_alone_does_not_feel_its_neighbours(evidence):
    steps, shape = 32, (2, 4, 5, 6)
    u, c, x = series(1, steps, shape), series(2, steps, shape), [series(9, 1, shape)[0]]
    # the first sample is not the concept, the second lands where the concept's prediction leads
    n = [torch.stack([a[0] - 3 * (a[0] - b[0]), b[1] + 0.1 * a[1]]) for a, b in zip(u, c, strict=True)]
    sigmas = levels(steps)
    for i in range(steps - 1):
        now, after = Units.at("eps", sigmas[i]), Units.at("eps", sigmas[i + 1])
        toward = torch.stack([(u[i] + W * (c[i] - u[i]))[0], n[i][1]])
        picture, kept = now.picture(toward, x[i]), (sigmas[i + 1] / sigmas[i]) ** 2
        x.append(after.signal * (picture + kept * (x[i] / now.signal - picture)))
    term = guidance.dng("circle", evidence=evidence, prior=0.002, delta=0.0)
    pair = run(term, u, c, {"circle": n}, x=x)
    rows = [[v[:1] for v in values] for values in (u, c, n, x)]
    alone, evaluated = Run([term], W), 0
    for i, at in enumerate(moments(steps)):
        needs = alone.needs(at, (1, *shape[1:]))
        evaluated += bool(needs.texts)
        given = predictions(rows[0], rows[1], {"circle": rows[2]} if needs.texts else {}, i, x=rows[3])
        assert torch.allclose(alone.combine(given), pair[i][:1], rtol=0, atol=1e-9)
    assert 0 < evaluated < steps
    assert differs([p[1:] for p in pair], [a[1:] + W * (b[1:] - a[1:]) for a, b in zip(u, c, strict=True)]) > 1


@pytest.mark.parametrize("difference", [1e6, -1e6, 0.0])
def test_beliefs_never_leave_their_range(difference):
    u, c = series(1), series(2)
    n = [ui + difference * e for ui, e in zip(u, N, strict=True)]
    term = guidance.dng("circle", evidence="kernel", self_off=False)
    x = series(9, scale=1e3)
    found = run(term, u, c, {"circle": n}, x=x)
    assert all(torch.isfinite(f).all() for f in found)
    same = guidance.dng("circle", evidence="kernel", base="unguided", delta=0, prior=0.1)
    state = State()
    for i in range(STEPS):
        same.step(state, predictions(u, c, {"circle": u}, i, x=x))
        assert torch.allclose(state.memory[0].log_p, torch.full((3,), math.log(0.1), dtype=torch.float64))


def test_what_was_not_evaluated_is_named():
    term = guidance.negation("circle")
    with pytest.raises(BadInput, match="prediction for 'circle' is missing"):
        term.step(State(), predictions(U, C, {}, 0))
    with pytest.raises(BadInput, match="unconditional prediction is missing"):
        term.step(State(), predictions(None, C, TEXTS, 0, w=1.0))
    with pytest.raises(BadInput, match="one of eps, v, flow"):
        Units("epsilon", 0.5, 0.5)

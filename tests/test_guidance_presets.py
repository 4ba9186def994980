"""Each preset against an independent float64 loop of the published update, and what all presets promise."""

import math
from dataclasses import replace

import guidance_reference as published
import pytest
import torch
from guidance_support import SHAPE, STEPS, W, assert_equal, differs, near, predictions, run, series

from erasure_core import guidance
from erasure_core.concepts import Concept
from erasure_core.errors import BadInput
from erasure_core.guidance import PRESETS, State

U, C, N, A = series(1), series(2), series(3), series(4)
TEXTS = {"circle": N, "square": A}
PLAIN = [u + W * (c - u) for u, c in zip(U, C, strict=True)]
WINDOW = {"start": 0.2, "end": 0.6, "ramp": 0.15}
BOTH = ("circle @ 0.5", "square")


@pytest.mark.parametrize("window", [{}, WINDOW, {"start": 0.3, "end": 0.3}, {"start": 0.5, "end": 1.0}])
def test_negative_prompt_in_a_window(window):
    assert_equal(
        run(guidance.negative("circle", **window), U, C, TEXTS), published.negative(U, C, N, W, **_soft(window))
    )


def test_negative_prompt_by_the_adaptive_rule():
    u, c = series(21), series(22)
    n = [
        ui + (0.9 if 3 <= i < 6 else -0.2) * (ci - ui) + 0.3 * e
        for i, (ui, ci, e) in enumerate(zip(u, c, series(23), strict=True))
    ]
    found = run(guidance.negative("circle", adaptive=True), u, c, {"circle": n})
    assert_equal(found, published.adaptive(u, c, n, W))
    plain = [a + W * (b - a) for a, b in zip(u, c, strict=True)]
    acting = [differs([f], [p]) > 0.1 for f, p in zip(found, plain, strict=True)]
    assert any(acting[3:6]) and not any(acting[:2]) and not any(acting[9:])


@pytest.mark.parametrize("options", [{}, {"w_n": 3.0}, {"w_n": 20.0, **WINDOW}, {"mode": "surgical"}])
def test_null_based_negation(options):
    expected = published.negation(U, C, [N, A], W, options.get("w_n"), [0.5, 1.0], **_soft(options))
    assert_equal(run(guidance.negation(BOTH, **options), U, C, TEXTS), expected)


PRESETS_OF_SLD = {
    "weak": (15, 20, 0.0, 0.0, 0.0),
    "medium": (10, 1000, 0.01, 0.3, 0.4),
    "strong": (7, 2000, 0.025, 0.5, 0.7),
    "max": (0, 5000, 1.0, 0.5, 0.7),
}


@pytest.mark.parametrize("name", PRESETS_OF_SLD)
@pytest.mark.parametrize("steps", [50, 23])
def test_safe_latent_diffusion(name, steps):
    shape = (2, 2, 3, 3)
    u, c = series(5, steps, shape), series(6, steps, shape)
    s = near(c, 7, 0.03)  # so that the threshold decides
    warmup, *others = PRESETS_OF_SLD[name]
    warmup = _steps(warmup / 50, steps)
    expected = published.sld(u, c, s, W, warmup, *others)
    assert_equal(run(guidance.sld("circle", preset=name), u, c, {"circle": s}), expected)


@pytest.mark.parametrize(("text", "safety", "expected"), [(0.1, 0.5, -3.0), (0.5, 0.1, 3.75), (0.1, 0.1, 0.75)])
def test_safe_latent_diffusion_on_single_numbers(text, safety, expected):
    one = [torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.0, text, safety)]
    term = guidance.sld("circle", guidance_scale=1000, threshold=0.01, warmup=0, momentum_scale=0)
    found = run(term, [one[0]], [one[1]], {"circle": [one[2]]})
    assert float(found[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gather", [False, True])
def test_semantic_guidance_with_three_edits(gather):
    edits = [series(8), series(9), series(10)]
    texts = dict(zip(("circle", "square", "star"), edits, strict=True))
    term = guidance.sega(
        ("circle @ 0.5", "square", "star @ 2"),
        direction="-1/1/-1", scale="5/3/4", threshold="0.9/0.8/0.95", warmup="0/0.2/0.45", cooldown="0.9/0.5/0.8",
        momentum_scale=0.6, mom_beta=0.4, gather=gather,
    )  # fmt: skip
    warmups = [_steps(part) for part in (0, 0.2, 0.45)]
    cooldowns = [_steps(part) for part in (0.9, 0.5, 0.8)]
    expected = published.sega(
        U, C, edits, W, [-1, 1, -1], [5, 3, 4], [0.9, 0.8, 0.95], [0.5, 1, 2], warmups, cooldowns, 0.6, 0.4, gather
    )
    assert_equal(run(term, U, C, texts), expected)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 3, 2, 5, 3)])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_quantile_keeps_exactly_its_share(shape, level):
    u, c, e = (series(seed, 1, shape) for seed in (1, 2, 3))
    term = guidance.sega("circle", threshold=str(level), warmup="0")
    moved = run(term, u, c, {"circle": e})[0] - (u[0] + W * (c[0] - u[0]))
    count = (moved.abs() > 1e-9).flatten(2).sum(2)
    assert (count == math.ceil(round((1 - level) * 30, 9))).all()


def test_the_quantile_of_packed_latents_is_taken_over_tokens():
    u, c, e = (series(seed, 1, (2, 30, 4)) for seed in (1, 2, 3))
    moved = run(guidance.sega("circle", warmup="0"), u, c, {"circle": e})[0] - (u[0] + W * (c[0] - u[0]))
    assert ((moved.abs() > 1e-9).sum(1) == 3).all()


def test_opposite_edits_with_one_text_cancel():
    term = guidance.sega(("circle", "square"), direction="-1/1", warmup="0")
    assert differs(run(term, U, C, {"circle": N, "square": N}), PLAIN) < 1e-12


@pytest.mark.parametrize("options", [{}, {"beta": 1.5, "blend": 0.4}, WINDOW])
def test_perpendicular_negatives(options):
    beta, blend = options.get("beta", 1.0), options.get("blend", 1.0)
    expected = published.perp_neg(U, C, [N, A], W, [beta * 0.5, beta], blend, **_soft(options))
    assert_equal(run(guidance.perp_neg(BOTH, **options), U, C, TEXTS), expected)


def _chain(guided):
    """A DDPM chain whose samples drift to the concept, away from it, and nowhere; eps predictions beside it."""
    abar = [1 / (1 + s * s) for s in [10 * 0.75**i for i in range(STEPS)]]
    u = series(31)
    c = near(u, 32, 0.02)
    n = near(u, 33, 0.02 if guided else 0.15)
    x, noise = [series(34, 1)[0]], series(35)
    for i in range(STEPS - 1):
        about = u[i] + W * (c[i] - u[i]) if guided else u[i]
        alpha = abar[i] / abar[i + 1]
        deviation = math.sqrt((1 - abar[i + 1]) / (1 - abar[i]) * (1 - alpha))
        drift = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64).reshape(3, 1, 1, 1) * (n[i] - about)
        mean = (x[i] - (1 - alpha) / math.sqrt(1 - abar[i]) * (about + drift)) / math.sqrt(alpha)
        x.append(mean + deviation * noise[i])
    return abar, u, c, n, x


@pytest.mark.parametrize("base", ["cfg", "unguided"])
def test_dynamic_negative_guidance_with_a_stochastic_sampler(base):
    abar, u, c, n, x = _chain(base == "cfg")
    expected = published.dng_kernel(u, c, n, W, x, abar, 12.0, 0.05, 0.25, 0.003, 0.9, base == "cfg")
    options = {"prior": 0.05, "base": base, "self_off": False, "limit": None}
    sigmas = [math.sqrt((1 - a) / a) for a in abar]
    kernel = guidance.dng("circle", evidence="kernel", **options)
    found = run(kernel, u, c, {"circle": n}, x=x, sigmas=sigmas)
    assert_equal(found, expected)
    plain = [a + W * (b - a) for a, b in zip(u, c, strict=True)]
    push = [(a - b).abs().amax((1, 2, 3)) for a, b in zip(found, plain, strict=True)]
    assert (push[-1][0] > push[0][0] * 3) and (push[-1][1] < push[0][1] / 3), "the belief has to move in this chain"


def test_auto_evidence_is_the_samplers():
    abar, u, c, n, x = _chain(True)
    sigmas = [math.sqrt((1 - a) / a) for a in abar]
    made = {e: guidance.dng("circle", evidence=e, limit=4.0) for e in ("auto", "kernel", "predictions")}
    found = {
        (e, s): run(term, u, c, {"circle": n}, x=x, sigmas=sigmas, stochastic=s)
        for e, term in made.items()
        for s in (True, False)
    }
    assert differs(found["auto", True], found["kernel", True]) == 0
    assert differs(found["auto", False], found["predictions", False]) == 0
    assert differs(found["auto", True], found["auto", False]) > 1e-3


def test_dynamic_negative_guidance_approximately():
    n = [ci + 0.6 * e if i < 5 else e for i, (ci, e) in enumerate(zip(C, N, strict=True))]
    expected = published.dng_approximate(U, C, n, W, 12.0, 0.01, 2.0, 0.9)
    term = replace(guidance.dng("circle", evidence="predictions", self_off=False), limit=math.inf)
    assert_equal(run(term, U, C, {"circle": n}), expected)


@pytest.mark.parametrize("ratio", [True, False])
@pytest.mark.parametrize("options", [{}, {"g": 0.7, "h": 1.3, **WINDOW}])
def test_all_but_one(ratio, options):
    g, h = options.get("g", 1.0), options.get("h", 1.0)
    n = [u + 0.5 * (c - u) + 0.4 * e for u, c, e in zip(U, C, N, strict=True)]
    expected = published.all_but_one(U, C, n, A, W, g, h, ratio, **_soft(options))
    found = run(guidance.all_but_one("circle -> square", ratio=ratio, **options), U, C, {"circle": n, "square": A})
    assert_equal(found, expected)


EVERY = [
    (name, text)
    for name in PRESETS
    for text in ("circle", "circle -> square", ("circle", "square"))
    if not (name == "negative" and isinstance(text, tuple))
]


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_a_batch_is_its_samples_in_any_order(name, text):
    term = guidance.make(name, text)
    whole = run(term, U, C, TEXTS)
    order = [2, 0, 1]
    mixed = run(term, *_rows(order))
    for sample in range(SHAPE[0]):
        alone = run(term, *_rows([sample]))
        for i in range(STEPS):
            assert torch.allclose(whole[i][sample], alone[i][0], rtol=0, atol=1e-9)
            assert torch.allclose(whole[i][sample], mixed[i][order.index(sample)], rtol=0, atol=1e-9)
    assert differs(whole, PLAIN) > 0.1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_off_is_bitwise_guidance_alone_and_strength_1_is_not(name, dtype):
    u, c, n, a = ([v.to(dtype) for v in values] for values in (U, C, N, A))
    plain = [x + W * (y - x) for x, y in zip(u, c, strict=True)]
    texts = {"circle": n, "square": a}
    state = State()
    for off in (guidance.make(name, "circle", strength=0), guidance.make(name, ""), guidance.make(name, [])):
        for i in range(STEPS):
            given = predictions(u, c, {}, i)
            state.enter(given.at.sigma, given.x.shape)
            assert not off.needs(state, given.at, W).texts
            assert torch.equal(off.step(state, given), plain[i])
    on = run(guidance.make(name, "circle"), u, c, texts)
    assert on[0].dtype == dtype
    assert differs(on, plain) > 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_is_nan_and_inputs_stay_as_they_are(name):
    zero = torch.zeros(SHAPE, dtype=torch.float32)
    for u, c, n in ((zero, zero, zero), (zero, zero, N[0].float()), (U[0].float(), C[0].float(), C[0].float())):
        kept = [v.clone() for v in (u, c, n)]
        for limit in (None, 1.0):
            term = guidance.make(name, "circle -> square", limit=limit)
            found = run(term, [u] * 4, [c] * 4, {"circle": [n] * 4, "square": [n] * 4})
            assert all(torch.isfinite(f).all() for f in found)
        assert all(torch.equal(v, k) for v, k in zip((u, c, n), kept, strict=True))


def test_the_names_are_functions_too():
    for name in PRESETS:
        assert getattr(guidance, name)("circle") == guidance.make(name, "circle")
        assert name in guidance.explain(name)
        assert guidance.make_with(name, "circle", "strength=0.5").strength == 0.5


def test_aliases_are_one_text_and_weights_count():
    term = guidance.negation([Concept("gun", aliases=("rifle", "pistol"), weight=2.0)])
    assert [(edit.text, edit.weight) for edit in term.edits] == [("gun, rifle, pistol", -2.0)]
    literal = guidance.all_but_one(Concept("a (b:2)", anchor="(c)"))  # a concept is no prompt with weights in it
    assert [edit.text for edit in literal.edits] == [r"a \(b:2\)", r"\(c\)"]


@pytest.mark.parametrize(
    ("method", "concepts", "options", "says"),
    [
        ("sdl", "circle", {}, "Unknown guidance 'sdl'. Known: negative, negation, sld"),
        ("sld", "circle", {"presett": "max"}, "'sld' has no option 'presett'. Its options: strength"),
        ("sld", "circle", {"preset": "huge"}, "weak | medium | strong | max | balanced"),
        ("sega", "a\nb\nc", {"scale": "1/2"}, "'scale' holds 2 numbers for 3 concepts"),
        ("sega", "a", {"direction": "0.5"}, "-1 (remove) or 1 (add)"),
        ("negative", "a\nb @ 2", {}, "cannot have different weights"),
        ("negation", "circle", {"start": 2}, "0 to 1"),
    ],
)
def test_mistakes_are_one_sentence(method, concepts, options, says):
    with pytest.raises(BadInput) as caught:
        guidance.make(method, concepts, **options)
    assert says in str(caught.value)


def _soft(options):
    """The window's arguments; presets have a ramp of 0.05 and named windows unless told else."""
    start, end = (0.17, 0.5) if options.get("mode") == "surgical" else (0.0, 1.0)
    return {"start": options.get("start", start), "end": options.get("end", end), "ramp": options.get("ramp", 0.05)}


def _steps(progress, steps=STEPS):
    """The first step at or after a progress."""
    return math.ceil(round(progress * steps, 9))


def _rows(order):
    u, c, n, a = ([v[order] for v in values] for values in (U, C, N, A))
    return u, c, {"circle": n, "square": a}

"""Attention-space terms in pipelines: what they act on, what they leave alone, and that nothing stays behind."""

import pytest
import torch
from apply_support import NAME, OTHER, PROMPT, assert_untouched, picture, random_delta, weights_of
from tiny_models import tiny_sdxl

from erasure_core import Membrane, apply, erase
from erasure_core.errors import BadInput, MembraneError, NothingMatched, WrongFamily
from erasure_core.gates import Always
from erasure_core.guidance import Window
from erasure_core.guidance.attention import (
    METHODS,
    Call,
    attached,
    attention_negative,
    cross_attention,
    make_term,
    repeats_of,
    settings_of,
    text_rows,
    vsf,
)

STRONG = {"nag": {"scale": 6, "alpha": 1.0}, "vsf": {"alpha": 3.5}, "adavd": {}}
T = torch.tensor(501)


def term(model, method, texts="circle", **more):
    return attention_negative(model, texts, method, **{"gate": "always", **STRONG[method], **more})


def noise(model, count=1):
    shape = (count, model.pipe.unet.config.in_channels, 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def predicted(model, terms, prompts=(PROMPT,)):
    with model.steer(terms), torch.no_grad():
        return model.predict(noise(model, len(prompts)), T, model.encode(list(prompts)))


def drawn(model, terms, prompt):
    """Latents of one prompt, whose words are known; at guidance 1."""
    with model.steer(terms):
        return model.sample(model.encode([prompt]), seed=3, steps=2, cfg=1.0)


def far(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("method", METHODS)
def test_off_is_bitwise_off_and_on_is_not(demo, method, cfg):
    def drawn(terms):
        with demo.steer(terms):
            return demo.sample(demo.encode([PROMPT]), seed=3, steps=3, cfg=cfg)

    base = demo.sample(demo.encode([PROMPT]), seed=3, steps=3, cfg=cfg)
    assert far(drawn(term(demo, method)), base) > 1e-2
    for off in (
        [],
        term(demo, method, strength=0),
        term(demo, method, window=Window(0.5, 0.5)),
        term(demo, method, texts=[]),
    ):
        assert torch.equal(drawn(off), base)


@pytest.mark.parametrize("method", METHODS)
def test_two_terms_of_half_the_strength_are_nearly_one(demo, method):
    base = predicted(demo, [])
    whole = predicted(demo, term(demo, method, strength=0.02)) - base
    halves = predicted(demo, [term(demo, method, strength=0.01)] * 2) - base
    assert far(halves, whole) < 0.1, "the change is smooth in the strength, with no jump at 0"


@pytest.mark.parametrize("method", METHODS)
def test_no_evaluation_is_added(demo, method):
    calls = []
    hook = demo.pipe.unet.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    try:
        for cfg in (1.0, 5.0):
            rows = []
            for terms in ([], term(demo, method)):
                calls.clear()
                with demo.steer(terms):
                    demo.sample(demo.encode([PROMPT, "a star"]), seed=3, steps=4, cfg=cfg)
                rows.append(list(calls))
            assert rows[0] == rows[1] == [4 if cfg > 1 else 2] * 4
    finally:
        hook.remove()


@pytest.mark.parametrize("method", ["vsf", "adavd"])
def test_prompts_of_a_batch_do_not_meet_and_a_closed_gate_is_bitwise_off(demo, method):
    prompts = [PROMPT, "a blue star", "a green circle in front of a red star"]
    acting = term(demo, method, gate="words")
    together = predicted(demo, acting, prompts)
    plain = predicted(demo, [], prompts)
    assert torch.equal(together[1], plain[1]) and not torch.equal(together[0], plain[0])
    for i, prompt in enumerate(prompts):
        x = noise(demo, 3)[i : i + 1]
        with demo.steer(acting), torch.no_grad():
            assert far(demo.predict(x, T, demo.encode([prompt])), together[i : i + 1]) < 1e-5


@pytest.mark.parametrize("method", ["nag", "vsf"])
def test_only_the_prompts_half_is_guided(demo, method):
    """Joint attention that rewrites the negative half as well is a defect of the host's own NAG."""
    seen = []
    hook = demo.pipe.unet.register_forward_hook(lambda m, a, out: seen.append(out[0].clone()))
    try:
        for terms in ([], term(demo, method), term(demo, method, rows="all")):
            with demo.steer(terms):
                demo.sample(demo.encode([PROMPT]), seed=3, steps=1, cfg=5.0)
    finally:
        hook.remove()
    plain, cond, both = seen
    assert torch.equal(cond[0], plain[0]) and not torch.equal(cond[1], plain[1])
    assert not torch.equal(both[0], plain[0]) and torch.equal(both[1], cond[1])


@pytest.mark.parametrize("method", ["nag", "vsf"])
def test_halves_in_calls_of_their_own_give_the_same(demo, method):
    """A host short of memory calls the denoiser for one half at a time; acting only when both come is a defect."""
    x, encoded, empty = noise(demo), demo.encode([PROMPT]), demo.encode([""])
    layers, unet = cross_attention(demo.pipe.unet), demo.pipe.unet
    chosen = term(demo, method)

    def call(hidden, gains):
        rows = len(hidden)
        how = Call(torch.tensor([gains]), torch.zeros(rows, dtype=torch.long), repeats_of(hidden), hidden.shape[1])
        with torch.no_grad(), attached(layers, [chosen], how):
            return unet(x.repeat(rows, 1, 1, 1), T, encoder_hidden_states=hidden, return_dict=False)[0]

    together = call(torch.cat([empty.hidden, encoded.hidden]), [0.0, 1.0])
    assert far(call(encoded.hidden, [1.0]), together[1:]) < 1e-5
    assert far(call(empty.hidden, [0.0]), together[:1]) < 1e-5
    turned = call(torch.cat([encoded.hidden, empty.hidden]), [1.0, 0.0])
    assert far(turned.flip(0), together) < 1e-5, "whichever half comes first"


@pytest.mark.parametrize("method", METHODS)
def test_the_negative_is_read_by_the_weights_as_they_are(fresh, method):
    """The term is made first and the weights change afterwards, by a delta and by hand."""
    chosen = term(fresh, method)
    fixed = predicted(fresh, chosen)
    with apply(fresh, Membrane(erase(fresh, "heart -> star")), act_on="weights"):
        moved = predicted(fresh, chosen)
        again = predicted(fresh, term(fresh, method))
    assert torch.equal(moved, again) and far(moved, fixed) > 1e-4
    unet = dict(fresh.pipe.unet.named_parameters())
    with torch.no_grad():
        for name in (NAME, OTHER):
            unet[name.removeprefix("unet.")] *= -1
    layer = fresh.pipe.unet.get_submodule(NAME.removeprefix("unet.").removesuffix(".to_v.weight"))
    rows = text_rows(fresh.encode(["circle"]), 0, "all")
    seen = []
    hook = layer.to_v.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    predicted(fresh, chosen)
    hook.remove()
    own = [out for args, out in seen if args.shape[1] != rows.shape[1] or torch.equal(args, rows)]
    assert own, "the negative went through the layer's own projection in this very call"


def test_a_membrane_on_all_rows_maps_the_negative_too(demo, circle):
    """Text or weights, the erasure is the same; ``cond`` leaves the negative as it was written."""
    chosen = term(demo, "vsf", texts="a red circle")
    found = {}
    for how in ({"act_on": "weights"}, {"rows": "all"}, {"rows": "cond"}):
        with apply(demo, Membrane(circle, gate="always"), **how), demo.steer(chosen):
            found[next(iter(how.values()))] = demo.sample(demo.encode([PROMPT]), seed=3, steps=2, cfg=5.0)
    assert far(found["all"], found["weights"]) < 1e-3
    assert far(found["cond"], found["weights"]) > 1e-2


@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_terms_put_in_force_apart_are_as_together(demo, first, second):
    """The negative of one goes through the layer's projections, where the other must not take it for the prompt."""
    terms = [term(demo, first), term(demo, second, texts="red")]
    with demo.steer(terms[0]):
        apart = predicted(demo, terms[1])
    assert far(apart, predicted(demo, terms)) < 1e-5
    assert min(far(apart, predicted(demo, one)) for one in terms) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_every_text_counts(demo, method):
    one, two, both = (predicted(demo, term(demo, method, texts=t)) for t in ("circle", "red", ["circle", "red"]))
    assert min(far(both, one), far(both, two)) > 1e-3


def test_each_picture_may_have_its_own_negative(demo):
    encoded = demo.encode(["circle", "square"])
    texts = torch.cat([text_rows(encoded, i, "words+end") for i in range(2)])
    settings = settings_of("vsf", {"alpha": 3})
    both = predicted(demo, make_term("vsf", [texts], settings), [PROMPT, PROMPT])
    for i, word in enumerate(["circle", "square"]):
        alone = predicted(demo, term(demo, "vsf", texts=word, alpha=3), [PROMPT, PROMPT])
        assert far(both[i], alone[i]) < 1e-5 and far(both[1 - i], alone[1 - i]) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_long_prompt_beside_a_short_one(demo, method):
    """The short prompt is repeated to three chunks, which it must not notice."""
    prompts = [PROMPT, "blue " * 160 + "circle"]
    x = noise(demo, 2)
    with demo.steer(term(demo, method)), torch.no_grad():
        both = demo.predict(x, T, demo.encode(prompts))
        alone = demo.predict(x[:1], T, demo.encode(prompts[:1]))
    assert demo.encode(prompts).hidden.shape[1] == 231
    assert far(both[:1], alone) < 1e-5


@pytest.mark.parametrize("texts", ["a circle", "(the disc:1.2), a circle", "Circle, blurred"])
def test_vsf_acts_in_full_where_a_prompt_names_it_and_less_elsewhere(demo, texts):
    own, full = (attention_negative(demo, texts, **more) for more in ({}, {"gate": "always"}))
    assert own.others == vsf.OTHERS == 0.4 and own.settings == full.settings
    for prompt, share in (("a red circle", 1.0), ("a blue star", 0.4)):
        part = attention_negative(demo, texts, strength=share, gate="always")
        found, wanted, whole = (drawn(demo, one, prompt) for one in (own, part, full))
        assert torch.equal(found, wanted) and torch.equal(found, whole) is (share == 1)
    for method in ("nag", "adavd"):
        assert isinstance(attention_negative(demo, texts, method).gate, Always)


def test_a_gate_asked_for_by_name_closes_altogether_unless_told_else(demo):
    star = ["a blue star"]
    base = predicted(demo, [], star)
    assert torch.equal(predicted(demo, attention_negative(demo, "circle", gate="words"), star), base)
    told = attention_negative(demo, "circle", gate="words", others=0.5)
    assert torch.equal(
        predicted(demo, told, star),
        predicted(demo, attention_negative(demo, "circle", gate="always", strength=0.5), star),
    )
    assert not torch.equal(predicted(demo, told, star), base)
    with pytest.raises(BadInput, match="others is the share of the strength"):
        attention_negative(demo, "circle", others=2)


def test_without_words_to_look_for_vsf_acts_everywhere(demo):
    assert isinstance(attention_negative(demo, "!?").gate, Always)
    with pytest.raises(BadInput, match="Words cannot be looked for"):
        attention_negative(demo, "!?", gate="words")


def test_repetition_is_counted():
    rows = torch.randn(1, 77, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(1, 77, 4, generator=torch.Generator().manual_seed(1))
    texts = [rows.repeat(1, 4, 1), torch.cat([rows, other], 1).repeat(1, 2, 1), torch.cat([rows, rows, rows, other], 1)]
    assert repeats_of(torch.cat(texts)).tolist() == [4, 2, 1]
    assert repeats_of(rows).tolist() == [1]


@pytest.mark.parametrize("method", METHODS)
def test_the_window_is_the_models_own_time(demo, method):
    base = predicted(demo, [])
    assert 0.49 < 1 - int(T) / 999 < 0.5
    for start, end, acts in ((0, 0.4, False), (0.6, 1, False), (0.4, 0.6, True)):
        found = predicted(demo, term(demo, method, window=Window(start, end)))
        assert torch.equal(found, base) is not acts


@pytest.mark.parametrize("method", METHODS)
def test_a_ramp_is_part_of_the_change(demo, method):
    base, whole = predicted(demo, []), predicted(demo, term(demo, method))
    half = predicted(demo, term(demo, method, window=Window(0.6, 1, 0.2)))
    less = predicted(demo, term(demo, method, strength=Window(0.6, 1, 0.2).gain(1 - int(T) / 999)))
    assert torch.equal(half, less) and not torch.equal(half, base) and not torch.equal(half, whole)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_stays_behind_even_after_a_failure(fresh, method):
    base = weights_of(fresh), picture(fresh)

    def stop(step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), fresh.steer(term(fresh, method)):
        fresh.sample(fresh.encode([PROMPT]), steps=3, callback=stop)
    with pytest.raises(Exception, match=r"shape|size|broadcast"), fresh.steer(term(fresh, method)):
        fresh.predict(noise(fresh)[:, :2], T, fresh.encode([PROMPT]))
    patch = fresh.steer(term(fresh, method))
    with pytest.raises(Exception, match=r"shape|size|broadcast"):
        fresh.predict(noise(fresh)[:, :2], T, fresh.encode([PROMPT]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for n, m in fresh.pipe.unet.named_modules() if n)
    patch.undo()
    patch.undo()
    assert_untouched(fresh, base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fresh.pipe.unet.modules())


def test_a_pipeline_that_the_caller_runs(demo):
    def run(terms):
        with demo.steer(terms):
            return demo.pipe(
                PROMPT, num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="latent"
            ).images

    base = run([])
    assert far(run(term(demo, "vsf")), base) > 1e-2
    assert torch.equal(run(term(demo, "vsf", strength=0)), base)


def test_layers_of_other_classes_work(fresh):
    """Checks by exact type refuse quantised layers; any module with the layer's parts will do."""
    wanted = predicted(fresh, term(fresh, "vsf"))

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    for layer in cross_attention(fresh.pipe.unet).values():
        layer.to_k, layer.to_v, layer.to_out[0] = Wrapped(layer.to_k), Wrapped(layer.to_v), Wrapped(layer.to_out[0])
    assert torch.equal(predicted(fresh, term(fresh, "vsf")), wanted)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers beside numpy 2
@pytest.mark.parametrize("method", METHODS)
def test_sdxl(method):
    from erasure_core.backends.diffusers import DiffusersModel

    model = DiffusersModel(tiny_sdxl())
    base = model.sample(model.encode([PROMPT]), seed=1, steps=2, cfg=1.0, size=(16, 16))
    with model.steer(term(model, method, **({"sigmoid_b": 0.2} if method == "adavd" else {}))):
        changed = model.sample(model.encode([PROMPT]), seed=1, steps=2, cfg=1.0, size=(16, 16))
    assert changed.isfinite().all() and far(changed, base) > 1e-4
    assert torch.equal(model.sample(model.encode([PROMPT]), seed=1, steps=2, cfg=1.0, size=(16, 16)), base)


def test_what_cannot_be_used_is_one_sentence(demo):
    with pytest.raises(BadInput, match="rows is one of auto, cond, all, not 'some'"):
        attention_negative(demo, "circle", rows="some")
    with pytest.raises(BadInput, match="The strength of an attention negative is a number"):
        attention_negative(demo, "circle", strength=float("nan"))
    with pytest.raises(WrongFamily, match="vectors of width 7, this model reads 64"):
        demo.steer(make_term("vsf", [torch.zeros(1, 2, 7)], settings_of("vsf", {})))
    with pytest.raises(NothingMatched, match="no cross-attention layer"):
        cross_attention(torch.nn.Linear(2, 2))
    assert not demo.pipe.unet._forward_pre_hooks and not demo.pipe.unet._forward_hooks


def test_fused_projections_are_refused(fresh):
    fresh.pipe.unet.fuse_qkv_projections()
    with pytest.raises(MembraneError, match=r"projections of .*attn2 are fused"):
        predicted(fresh, term(fresh, "vsf"))
    assert not any(m._forward_hooks for n, m in fresh.pipe.unet.named_modules() if n)


def test_an_unused_delta_of_the_negative_is_not_invented(demo):
    """A weight delta with a term is the sum of nothing else: taking it away gives the term alone, bitwise."""
    chosen = term(demo, "nag")
    alone = predicted(demo, chosen)
    patch = demo.patch([], [random_delta(NAME, tuple(demo.weights()[NAME].shape))])
    assert far(predicted(demo, chosen), alone) > 1e-3
    patch.undo()
    assert torch.equal(predicted(demo, chosen), alone)

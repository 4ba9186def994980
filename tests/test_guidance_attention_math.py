"""The formulas of NAG, VSF and AdaVD against loops in plain float64 over the published updates."""

import math
from dataclasses import replace

import pytest
import torch

from erasure_core.errors import BadInput
from erasure_core.guidance.attention import METHODS, adavd, explain, nag, settings_of, vsf
from erasure_core.guidance.attention.heads import attend

EXACT = 1e-6
HEADS, WIDTH = 3, 5


def drawn(batch=2, tokens=7, text=9, negative=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def rand(count):
        return torch.randn(batch, HEADS, count, WIDTH, generator=generator, dtype=torch.float64) * 2

    return rand(tokens), rand(text), rand(text), [(rand(negative), rand(negative))]


def dot(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


def published_attention(q, k, v):
    """One head and one query."""
    weights = [math.exp(dot(q, key) / math.sqrt(len(q))) for key in k]
    return [dot(weights, column) / sum(weights) for column in zip(*v, strict=True)]


def published_nag(q, k, v, pairs, s, tau, alpha, order):
    batch, heads, tokens, width = q.shape
    q, k, v = q.tolist(), k.tolist(), v.tolist()
    pairs = [(key.tolist(), value.tolist()) for key, value in pairs]

    def all_heads(b, t, key, value):
        return [x for h in range(heads) for x in published_attention(q[b][h][t], key[b][h], value[b][h])]

    result = []
    for b in range(batch):
        for t in range(tokens):
            plus = all_heads(b, t, k, v)
            each = [all_heads(b, t, *pair) for pair in pairs]
            minus = [sum(column) / len(each) for column in zip(*each, strict=True)]
            far = [p + s * (p - m) for p, m in zip(plus, minus, strict=True)]
            old, new = (sum(abs(x) ** order for x in z) ** (1 / order) for z in (plus, far))
            r = new / old
            kept = [x * min(r, tau) / r for x in far]
            result.append([alpha * a + (1 - alpha) * p for a, p in zip(kept, plus, strict=True)])
    return torch.tensor(result, dtype=torch.float64).view(batch, tokens, heads, width).transpose(1, 2)


def published_vsf(q, k, v, pairs, alpha, beta):
    batch, heads, tokens, width = q.shape
    out = torch.empty(batch, heads, tokens, width, dtype=torch.float64)
    root = math.sqrt(width)
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(tokens)):
        query = q[b, h, t].tolist()
        columns = [(dot(query, x), y) for x, y in zip(k[b, h].tolist(), v[b, h].tolist(), strict=True)]
        for keys, values in pairs:
            for x, y in zip(keys[b, h].tolist(), values[b, h].tolist(), strict=True):
                columns.append((dot(query, x) - beta * root, [-alpha * value for value in y]))
        weights = [math.exp(logit / root) for logit, _ in columns]
        for c in range(width):
            out[b, h, t, c] = dot(weights, [value[c] for _, value in columns]) / sum(weights)
    return out


def worst(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize(("scale", "convention", "s"), [(2, "s", 2), (3, "phi", 2), (6, "s", 6), (0.5, "s", 0.5)])
@pytest.mark.parametrize("tau", [0.8, 2.5])
def test_nag_is_the_published_update(norm, scale, convention, s, tau):
    q, k, v, pairs = drawn()
    settings = nag.Settings(scale=scale, convention=convention, tau=tau, alpha=0.3, norm=norm)
    reference = published_nag(q, k, v, pairs, s, tau, 0.3, 1 if norm == "l1" else 2)
    assert worst(nag.attention(q, k, v, pairs, settings), reference) <= EXACT


def test_several_negatives_of_nag_all_count():
    q, k, v, first = drawn()
    second = drawn(negative=6, seed=5)[3]
    settings = nag.Settings(scale=2, alpha=0.5)
    found = nag.attention(q, k, v, [*first, *second], settings)
    assert worst(found, published_nag(q, k, v, [*first, *second], 2, 2.5, 0.5, 1)) <= EXACT
    assert worst(found, nag.attention(q, k, v, first, settings)) > 1e-2


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.1), (3.5, 0.1), (0.0, -1.0), (6.0, 2.0)])
def test_vsf_is_the_published_softmax(alpha, beta):
    q, k, v, pairs = drawn()
    pairs += drawn(negative=2, seed=3)[3]
    found = vsf.attention(q, k, v, pairs, vsf.Settings(alpha=alpha, beta=beta))
    assert worst(found, published_vsf(q, k, v, pairs, alpha, beta)) <= EXACT


def test_vsf_with_unflipped_values_is_attention_over_both_texts():
    q, k, v, ((kn, vn),) = drawn()
    together = attend(q, torch.cat([k, kn], 2), torch.cat([v, vn], 2))
    assert worst(vsf.attention(q, k, v, [(kn, vn)], vsf.Settings(alpha=-1.0, beta=0.0)), together) <= EXACT


def test_vsf_with_a_large_offset_is_plain_attention():
    q, k, v, pairs = drawn()
    assert torch.equal(vsf.attention(q, k, v, pairs, vsf.Settings(alpha=3.5, beta=1e4)), attend(q, k, v))
    assert worst(vsf.attention(q, k, v, pairs, vsf.Settings()), attend(q, k, v)) > 1e-2


@pytest.mark.parametrize("times", [2, 3])
def test_vsf_does_not_see_that_a_host_repeats_the_prompt(times):
    q, k, v, pairs = drawn()
    long = [x.repeat(1, 1, times, 1) for x in (k, v)]
    once = vsf.attention(q, k, v, pairs, vsf.Settings())
    repeats = torch.full((len(q),), float(times))
    assert worst(vsf.guided(attend(q, *long), q, long[0], pairs, vsf.Settings(), repeats), once) <= EXACT
    assert worst(vsf.guided(attend(q, *long), q, long[0], pairs, vsf.Settings()), once) > 1e-2


@pytest.mark.parametrize("off", [{"scale": 0}, {"alpha": 0.0}, {"scale": 1, "convention": "phi"}])
def test_nag_that_is_off_is_bitwise_plain(off):
    q, k, v, pairs = drawn()
    plain = attend(q, k, v)
    assert torch.equal(nag.attention(q, k, v, pairs, nag.Settings(**off)), plain)
    assert not torch.equal(nag.attention(q, k, v, pairs, nag.Settings()), plain)


def test_nag_against_the_prompt_itself_is_bitwise_plain():
    q, k, v, _ = drawn()
    assert torch.equal(nag.attention(q, k, v, [(k, v)], nag.Settings(scale=5)), attend(q, k, v))


@pytest.mark.parametrize("method", [nag, vsf])
def test_no_negative_is_bitwise_plain(method):
    q, k, v, pairs = drawn()
    assert torch.equal(method.attention(q, k, v, [], method.Settings()), attend(q, k, v))
    assert not torch.equal(method.attention(q, k, v, pairs, method.Settings()), attend(q, k, v))


@pytest.mark.parametrize("order", [1, 2])
def test_nag_limits_the_length_and_takes_tokens_of_no_length(order):
    q, k, v, pairs = drawn()
    plus, minus = attend(q, k, v), attend(q, *pairs[0])
    plus[0, :, 2] = 0
    settings = nag.Settings(scale=9, alpha=1, tau=1.7, norm=f"l{order}")
    found = nag.combined(plus, minus, settings)
    new, old = (torch.linalg.vector_norm(z, order, dim=(1, 3)) for z in (found, plus))
    assert found.isfinite().all() and (new <= 1.7 * old * (1 + 1e-12)).all()
    assert not found[0, :, 2].any() and (new / old)[1].max() > 1.69
    assert not nag.combined(torch.zeros_like(plus), torch.zeros_like(minus), settings).any()


@pytest.mark.parametrize("method", [nag, vsf])
def test_rows_of_a_batch_do_not_meet(method):
    q, k, v, (pair,) = drawn(batch=4)
    whole = method.attention(q, k, v, [pair], method.Settings())
    for order in ([0], [1], [2], [3], [3, 1, 2, 0]):
        part = method.attention(q[order], k[order], v[order], [tuple(x[order] for x in pair)], method.Settings())
        assert worst(part, whole[order]) <= EXACT


@pytest.mark.parametrize("method", [nag, vsf])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2e-2), (torch.bfloat16, 2e-1)])
def test_half_precision_differs_by_its_own_rounding_only(method, dtype, rounding):
    q, k, v, (pair,) = drawn()
    low = [x.to(dtype) for x in (q, k, v)]
    found = method.attention(*low, [tuple(x.to(dtype) for x in pair)], method.Settings())
    assert found.dtype == torch.float32
    assert worst(found.double(), method.attention(q, k, v, [pair], method.Settings())) < rounding


@pytest.mark.parametrize("method", [nag, vsf])
def test_nothing_that_is_given_is_written_to(method):
    q, k, v, pairs = drawn()
    before = [x.clone() for x in (q, k, v, *pairs[0])]
    method.attention(q, k, v, pairs, method.Settings())
    assert all(torch.equal(now, old) for now, old in zip((q, k, v, *pairs[0]), before, strict=True))


# --- AdaVD ------------------------------------------------------------------------------------------------------------


def published_adavd(v, concepts, a, b, c, gate):
    """One value: Gram-Schmidt over the concepts, keeping of which concepts each vector of the basis is made."""
    basis, mixing = [], []
    for n, concept in enumerate(concepts):
        own, row = list(concept), [float(i == n) for i in range(len(concepts))]
        for other, other_row in zip(basis, mixing, strict=True):
            share = dot(other, concept) / dot(other, other)
            own = [x - share * y for x, y in zip(own, other, strict=True)]
            row = [x - share * y for x, y in zip(row, other_row, strict=True)]
        basis.append(own)
        mixing.append(row)
    gates = []
    for concept in concepts:
        cosine = dot(v, concept) / math.sqrt(dot(v, v) * dot(concept, concept))
        gates.append({"sigmoid": c / (1 + math.exp(-a * (cosine - b))), "cosine": cosine, "none": 1.0}[gate])
    result = list(v)
    for vector, row in zip(basis, mixing, strict=True):
        weight = dot(vector, v) / dot(vector, vector)
        for share, gain, concept in zip(row, gates, concepts, strict=True):
            result = [x - weight * share * gain * y for x, y in zip(result, concept, strict=True)]
    return result


def text_values(concepts=2):
    """Some values are close to a concept, so that every part of the gate is met."""
    generator = torch.Generator().manual_seed(7)
    stars = torch.randn(concepts, 12, generator=generator, dtype=torch.float64)
    v = torch.randn(2, 9, 12, generator=generator, dtype=torch.float64)
    for i, noise in enumerate((0.0, 0.1, 0.3, 0.5, 0.8)):
        v[0, i + 1] = stars[i % concepts] + noise * v[0, i + 1]
    return v, stars


@pytest.mark.parametrize("gate", ["sigmoid", "cosine", "none"])
@pytest.mark.parametrize("concepts", [1, 2, 3])
def test_adavd_is_the_published_decomposition(gate, concepts):
    v, stars = text_values(concepts)
    found = adavd.values(v, stars, adavd.Settings(curve=gate))
    for b in range(2):
        assert torch.equal(found[b, 0], v[b, 0]), "the start token"
        for i in range(1, 9):
            wanted = published_adavd(v[b, i].tolist(), stars.tolist(), 100, 0.93, 2, gate)
            assert float((found[b, i] - torch.tensor(wanted, dtype=torch.float64)).abs().max()) <= EXACT
    assert worst(found, v) > 1e-2


def test_adavd_without_gate_leaves_nothing_of_any_concept_in_any_order():
    v, stars = text_values(3)
    settings = adavd.Settings(curve="none")
    found = adavd.values(v, stars, settings)
    assert float((found[:, 1:] @ stars.T).abs().max()) <= EXACT
    assert worst(adavd.values(v, stars[[2, 0, 1]], settings), found) <= EXACT
    gated = adavd.Settings()
    assert worst(adavd.values(v, stars[[2, 0, 1]], gated), adavd.values(v, stars, gated)) <= EXACT
    twice = torch.cat([stars, stars[:1]])  # the same phrase twice is that phrase
    assert worst(adavd.values(v, twice, settings), found) <= EXACT


def test_adavd_with_a_closed_gate_is_bitwise_plain():
    v, stars = text_values()
    assert torch.equal(adavd.values(v, stars, adavd.Settings(sigmoid_c=0.0)), v)
    assert torch.equal(adavd.values(v, stars[:0], adavd.Settings()), v)
    assert not torch.equal(adavd.values(v, stars, adavd.Settings()), v)


def test_adavd_mirrors_the_concept_itself():
    v, stars = text_values(1)
    found = adavd.values(v, stars, adavd.Settings())
    assert worst(found[0, 1], -stars[0]) < 5e-3, "the gate opens to 2 / (1 + exp(-7))"


def test_every_start_token_of_a_long_text_stays():
    v = torch.randn(1, 154, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = adavd.values(v, v[0, 5:6], adavd.Settings(curve="none"))
    assert [i for i in range(154) if torch.equal(found[0, i], v[0, i])] == [0, 77]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_explained_and_checked(method):
    assert explain(method).startswith(f"{method}: ")
    with pytest.raises(BadInput, match=f"'{method}' has no option 'strenght'. Its options:"):
        settings_of(method, {"strenght": 1})


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("nag", {"scale": 0.5, "convention": "phi"}, "With convention=phi the scale starts at 1"),
        ("nag", {"tau": -1}, "The option 'tau' cannot be -1. It takes 0 to 100"),
        ("vsf", {"alpha": "much"}, "The option 'alpha' cannot be 'much'. It takes -1 to 50"),
        ("adavd", {"curve": "open"}, r"The option 'curve' cannot be 'open'. It takes sigmoid \| cosine \| none"),
        ("vfs", {}, "Unknown attention method 'vfs'. Known: nag, vsf, adavd."),
    ],
)
def test_bad_settings_are_one_sentence(method, options, words):
    with pytest.raises(BadInput, match=words):
        settings_of(method, options)


def test_both_conventions_say_the_same():
    assert nag.Settings(scale=4).s == nag.Settings(scale=5, convention="phi").s == 4
    assert nag.Settings().s == replace(nag.Settings(), convention="phi").s == 2

"""SAFREE, Concept Lancet and the gated projection against independent loops, and what must hold of each."""

from dataclasses import replace

import guidance_text_reference as published
import numpy as np
import pytest
import torch
from tiny_models import tiny_sdxl

from erasure_core.embeddings import encode_texts
from erasure_core.errors import BadInput
from erasure_core.guidance.text import METHODS, explain, lancet, projection, safree, settings_of, text_steering
from erasure_core.guidance.text.places import places

EXACT = 1e-6
PROMPTS = ["a red circle", "a blue star on a green background", "the square"]
PHRASES = "circle | disc"


@pytest.fixture(scope="module")
def sdxl():
    from erasure_core.backends.diffusers import DiffusersModel

    return DiffusersModel(tiny_sdxl())


def worst(one, other):
    one, other = torch.as_tensor(np.asarray(one)).double(), torch.as_tensor(np.asarray(other)).double()
    return float((one - other).abs().max() / other.abs().max())


def blanked(plain_rows, model, prompt):
    """Vectors of the prompt with each word replaced by id 0, straight from the text encoder."""
    ids = model.encode([prompt]).tokens["clip_l"][0, 0].tolist()
    end = ids.index(49407)
    return [plain_rows(ids[:i] + [0] + ids[i + 1 :])[end] for i in range(1, end)]


@pytest.fixture(scope="module")
def rows_of(demo):
    def rows(ids):
        with torch.no_grad():
            return demo.pipe.text_encoder(torch.tensor([ids])).last_hidden_state[0].double()

    return rows


# --- SAFREE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_safree_is_the_published_filter(demo, rows_of, prompt):
    term = text_steering(demo, PHRASES, "safree", gamma=1.0, svf_t0=0.5)
    encoded = demo.encode([prompt])
    end = int(encoded.eos[0, 0])
    concept = [demo.encode([p]) for p in ("circle", "disc")]
    concept = [e.hidden[0, int(e.eos[0, 0])].double() for e in concept]
    masked = torch.stack(blanked(rows_of, demo, prompt))
    wanted, found = published.safree(encoded.hidden[0].double(), end, torch.stack(concept), masked, 0.01)
    proposal = term.fitted.propose(encoded)
    assert found and worst(proposal.hidden[0], wanted) <= EXACT
    beta = published.beta(encoded.hidden[0].double().numpy(), wanted, end)
    assert float(proposal.until[0]) == pytest.approx(published.part_of_run(beta, 1.0, 2.5, 0.5), abs=1e-6)
    changed = (term(encoded).first.hidden[0] != encoded.hidden[0]).any(1).nonzero().flatten().tolist()
    assert changed == [1 + i for i in found], "nothing but the triggers, unless asked for"


def test_a_projector_is_one():
    vectors = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = safree.span(torch.cat([vectors, vectors[:2] * 3]))
    p = basis @ basis.T
    assert worst(p, published.projector(vectors)) <= EXACT
    assert worst(p @ p, p) <= EXACT and worst(p, p.T) <= EXACT
    assert float(p.trace()) == pytest.approx(4) and basis.shape == (9, 4)
    away = vectors - vectors @ p
    assert float(away.abs().max()) <= EXACT
    assert (
        float((safree.cleaned(torch.ones(1, 9).double(), basis, torch.eye(9).double(), 0.0) @ basis).abs().max())
        <= EXACT
    )


def test_triggers_are_what_takes_the_prompt_nearer():
    far = torch.tensor([1.0, 1.0, 1.5, 1.0], dtype=torch.float64)
    assert safree.triggers(far, 0.01, 9.0).tolist() == [False, False, True, False]
    assert not safree.triggers(torch.ones(4), 0.01, 9.0).any()
    assert (
        safree.triggers(torch.tensor([2.0]), 0.01, 1.0).all()
        and not safree.triggers(torch.tensor([1.0]), 0.01, 1.0).any()
    )


def test_the_filter_grows_with_what_was_changed():
    spans = [safree.duration(beta, safree.Settings()) for beta in (0.0, 0.3, 0.5333, 0.8, 1.0)]
    assert (
        spans == sorted(spans)
        and spans[0] < 1e-6
        and spans[2] == pytest.approx(0.1)
        and spans[-1] == pytest.approx(0.2)
    )


def test_the_step_window_holds_and_the_original_text_stays_whole(demo):
    """A release of SAFREE writes through a view, which defeats its own window."""
    encoded = demo.encode(PROMPTS)
    before = encoded.hidden.clone()
    steered = text_steering(demo, PHRASES, "safree", rows="all", gamma=1.0, svf_t0=0.1)(encoded)
    assert torch.equal(encoded.hidden, before) and torch.equal(steered.then.hidden, before)
    middle = replace(steered, until=torch.tensor([0.5, 0.5, 1.0]).double())
    assert torch.equal(middle.at(0.2).hidden, steered.first.hidden)
    late = middle.at(0.7).hidden
    assert torch.equal(late[:2], before[:2]) and torch.equal(late[2], steered.first.hidden[2])
    assert not torch.equal(steered.first.hidden[0], before[0])
    latents = {}
    for until in (0.0, 0.5, 1.0):
        timed = replace(steered, until=torch.full((3,), until).double())
        latents[until] = demo.sample(timed, seed=1, steps=4, cfg=3.0)
    assert torch.equal(latents[0.0], demo.sample(encoded, seed=1, steps=4, cfg=3.0))
    assert torch.equal(latents[1.0], demo.sample(steered.first, seed=1, steps=4, cfg=3.0))
    assert not torch.equal(latents[0.5], latents[0.0]) and not torch.equal(latents[0.5], latents[1.0])


def test_safree_changes_both_halves_and_the_pooled_vector_of_sdxl(sdxl):
    """A release edits one encoder's half only, and neither the other nor the pooled vector."""
    encoded = sdxl.encode(["a red circle"])
    steered = text_steering(sdxl, PHRASES, "safree", filter="no", alpha=0.0)(encoded)
    changed = (steered.first.hidden != encoded.hidden)[0].any(0)
    assert changed[:64].any() and changed[64:].any()
    assert not torch.equal(steered.first.pooled, encoded.pooled) and steered.reports[0].changed["pooled"]


def test_the_concept_is_no_negative_prompt_as_well(demo):
    """A release of SAFREE passes the concepts on as a negative, so that its effect is not the projection's alone."""
    seen = []
    hook = demo.pipe.unet.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["encoder_hidden_states"].clone()), with_kwargs=True
    )
    try:
        demo.sample(text_steering(demo, PHRASES, "safree")(demo.encode(["a red circle"])), seed=1, steps=1, cfg=3.0)
    finally:
        hook.remove()
    assert torch.equal(seen[0][:1], demo.encode([""]).hidden) and len(seen[0]) == 2


# --- Concept Lancet ---------------------------------------------------------------------------------------------------


def test_a_planted_mixture_is_found_again():
    generator = torch.Generator().manual_seed(3)
    dictionary = (
        torch.randn(6, 40, generator=generator, dtype=torch.float64) * torch.tensor([1, 9, 3, 1, 2, 5.0])[:, None]
    )
    planted = torch.tensor([[0.63, 0, 0, 1.2, 0, 0], [0, 0, 2.0, 0, 0, 0.4]], dtype=torch.float64)
    weights = lancet.decompose(planted @ dictionary, dictionary, 1e-9, 0.95)
    assert worst(weights, planted) <= EXACT
    clear = lancet.decompose(planted @ dictionary, dictionary, 0.01, 0.95)
    assert (clear[planted == 0] < 0.02).all() and worst(clear, planted) < 0.02


@pytest.mark.parametrize(("lam", "tau"), [(0.01, 0.95), (0.3, 0.95), (0.3, 0.2)])
def test_no_other_weights_are_better(lam, tau):
    generator = torch.Generator().manual_seed(4)
    dictionary = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    v = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    weights = lancet.decompose(v, dictionary, lam, tau)
    for n in range(3):
        best = published.objective(v[n], dictionary, weights[n].tolist(), lam, tau)
        for _ in range(200):
            nudge = torch.randn(5, generator=generator, dtype=torch.float64) * 10 ** float(
                -torch.rand(1, generator=generator) * 5
            )
            other = (weights[n] + nudge).clamp_min(0).tolist()
            assert published.objective(v[n], dictionary, other, lam, tau) >= best - 1e-12
    assert (weights > 0).any() and (weights >= 0).all()


def test_lancet_moves_by_exactly_what_is_there_and_keeps_the_rest(demo):
    term = text_steering(demo, "circle -> square", "lancet")
    encoded = demo.encode(["a red circle", "a blue star"])
    steered = term(encoded)
    end = int(encoded.eos[0, 0])
    fitted, row = term.fitted, encoded.hidden[0, end].double()
    own = fitted._of_words(("a", "red"))
    atoms = torch.cat([fitted.targets["end"], fitted.anchors["end"], fitted.kept["end"], own["end"]])
    ((weight, *_),) = lancet.decompose(row[None], atoms, 0.01, 0.95).tolist()
    wanted = row + weight * (fitted.anchors["end"][0] - fitted.targets["end"][0])
    assert worst(steered.first.hidden[0, end].double(), wanted) <= EXACT
    assert weight > 0.3 and steered.reports[0].presence > 0.5 > steered.reports[1].presence


def test_a_concept_that_is_its_own_anchor_or_is_absent_changes_nothing(demo):
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.randn(1, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(lancet.transplanted(rows, torch.ones(2, 1).double(), target, target), rows)
    across = rows - rows @ target.T / (target @ target.T) * target
    weights = lancet.decompose(across, target, 0.01, 0.95)
    assert not weights.any() and torch.equal(lancet.transplanted(across, weights, target, -target), across)


# --- projection -------------------------------------------------------------------------------------------------------


def test_the_projection_is_leace_without_shrinkage():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    x[0:40:2, 1] += 2.0
    owners = [0] * 20
    z = torch.zeros(60, 1)
    z[0:40:2] = 1
    matrix, mean = published.leace(x, z)
    eraser = projection._eraser(x, owners, projection.Settings(shrinkage=False, to="mean"))
    found = eraser(x, 1.0)
    assert worst(found, (x - torch.as_tensor(mean)) @ torch.as_tensor(matrix).T + torch.as_tensor(mean)) <= EXACT
    centred = found - found.mean(0)
    assert float((centred.T @ (z.double() - z.double().mean(0))).abs().max()) / 60 <= 1e-8
    assert worst(found.mean(0), x.mean(0)) <= EXACT and worst(eraser(found, 1.0), found) <= EXACT
    anchored = projection._eraser(x, owners, projection.Settings(shrinkage=False, to="anchor"))
    without = x[1:40:2].mean(0)
    assert (
        worst(anchored(without[None], 1.0), without[None]) <= EXACT
        and worst(anchored(found, 1.0), anchored(x, 1.0)) <= EXACT
    )


@pytest.mark.parametrize("rows", ["words", "words+end", "all"])
def test_only_the_chosen_rows_change_and_the_report_says_which(demo, rows):
    encoded = demo.encode(["a red circle", "a blue star"])
    for method in ("projection", "lancet"):
        steered = text_steering(demo, "circle -> square", method, rows=rows)(encoded)
        moved = (steered.first.hidden != encoded.hidden).any(2)
        where = places(encoded)
        assert not moved[:, 0].any(), "the start token"
        for place, mask in where.items():
            allowed = rows == "all" or place in rows.split("+")
            assert bool((moved & mask)[0].any()) is allowed
            assert steered.reports[0].changed[place] == int((moved & mask)[0].sum())


# --- all --------------------------------------------------------------------------------------------------------------

ACTING = {"safree": {"filter": "no"}, "lancet": {}, "projection": {}}


@pytest.mark.parametrize("method", METHODS)
def test_off_is_bitwise_off_and_on_changes_the_picture(demo, method):
    encoded = demo.encode(["a red circle"])
    base = demo.sample(encoded, seed=2, steps=3, cfg=3.0)
    on = text_steering(demo, "circle -> square", method, **ACTING[method])
    assert not torch.equal(demo.sample(on(encoded), seed=2, steps=3, cfg=3.0), base)
    off = replace(on, strength=0.0)(encoded)
    assert torch.equal(off.first.hidden, encoded.hidden) and str(off.reports[0]) == "unchanged"
    assert torch.equal(demo.sample(off, seed=2, steps=3, cfg=3.0), base)


@pytest.mark.parametrize("method", METHODS)
def test_a_closed_gate_leaves_the_text_bitwise(demo, method):
    steered = text_steering(demo, "circle -> square", method, gate="words", **ACTING[method])(demo.encode(PROMPTS))
    same = [torch.equal(a, b) for a, b in zip(steered.first.hidden, demo.encode(PROMPTS).hidden, strict=True)]
    assert same == [False, True, True]


@pytest.mark.parametrize("method", METHODS)
def test_prompts_of_a_batch_do_not_meet(demo, method):
    term = text_steering(demo, "circle -> square", method, **ACTING[method])
    prompts = ["a red circle", "blue " * 80 + "circle"]
    both = term(demo.encode(prompts)).first.hidden
    alone = term(demo.encode(prompts[:1])).first.hidden
    assert both.shape[1] == 154 and torch.equal(both[0, :77], both[0, 77:])
    assert worst(both[0, :77], alone[0]) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_sdxl_and_its_pooled_vector(sdxl, method):
    options = {"safree": {"filter": "no", "alpha": 0.0}}.get(method, {})
    encoded = sdxl.encode(["a red circle"])
    first = text_steering(sdxl, "circle -> square", method, **options)(encoded).first
    assert first.hidden.isfinite().all() and not torch.equal(first.hidden, encoded.hidden)
    assert not torch.equal(first.pooled, encoded.pooled) and first.hidden.dtype == encoded.hidden.dtype


def test_ids_are_encoded_as_they_stand(demo, sdxl):
    for model in (demo, sdxl):
        encoded = model.encode(["a red circle", "the square"])
        again = model.encode_ids({name: ids[:, 0] for name, ids in encoded.tokens.items()})
        assert torch.equal(again.hidden, encoded.hidden) and torch.equal(again.eos, encoded.eos)
        assert model is demo or torch.equal(again.pooled, encoded.pooled)
    assert encode_texts(demo, ["a red circle"])["a red circle"].eos == 4


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_explained_and_checked(method):
    assert explain(method).startswith(f"{method}: ")
    with pytest.raises(BadInput, match=f"'{method}' has no option 'strenght'. Its options:"):
        settings_of(method, {"strenght": 1})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "saffree"}, "Unknown text method 'saffree'. Known: safree, lancet, projection."),
        ({"strength": float("inf")}, "The strength of a text method is a number like 1 or 0.5"),
        ({"gate": "sometimes"}, "A gate is one of auto, calibrated"),
        ({"concepts": "circle -> circle"}, "circle"),
        ({"concepts": "!!!", "method": "lancet"}, "holds no word"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(demo, arguments, words):
    with pytest.raises(BadInput, match=words):
        text_steering(demo, **{"concepts": "circle", **arguments})

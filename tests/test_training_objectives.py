"""Targets and losses of trained methods against published formulas, and what each promises."""

import math

import objective_reference as published
import pytest
import torch
from objective_support import example, plain, texts_of, trainer_for

from erasure_core.concepts import concept_set
from erasure_core.training.draw import Draw, drawn
from erasure_core.training.methods import ace, ant, leco, slider
from erasure_core.training.methods.ace import ratio
from erasure_core.training.terms import combined

CAT = concept_set("cat -> fox")
BARE = concept_set("cat")


def at_next_latents(trainer):
    """For each latent of the next update: (x, k, noise, e, s, roles of the words that must stay), all float64."""
    draw = drawn(trainer.step, trainer.settings, trainer.examples, trainer.library, trainer.bank)
    latents = trainer.source(draw)
    frozen, trained = plain(trainer)
    rows = {role: own.hidden[0] for role, own in draw.rows.items()}
    found = []
    for x, k, kept in zip(latents.x, latents.ks, draw.anchors, strict=True):
        found.append((
            x, k, latents.noise.double(),
            lambda role, x=x, k=k: frozen(x, k, rows[role]),
            lambda role, x=x, k=k: trained(x, k, rows[role]),
            kept,
        ))  # fmt: skip
    return draw, found


def losses_of(trainer):
    """What the next update says of itself."""
    return trainer.update()


def assert_loss(trainer, formula):
    """``formula(x, k, noise, e, s, kept)`` gives the erasing and the preserving part at one latent."""
    _, latents = at_next_latents(trainer)
    expected = [sum(part) / len(latents) for part in zip(*(formula(*own) for own in latents), strict=True)]
    found = losses_of(trainer)
    assert sum(expected) > 1e-3
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", ["slider", "leco"])
@pytest.mark.parametrize(("action", "sign"), [("erase", 1), ("enhance", -1)])
def test_slider(name, action, sign):
    options = {"positive": "old cat", "unconditional": "young cat", "neutral": "cat", "action": action, "eta": 3}
    trainer = trainer_for(name, BARE, word_anchors=0, sentences="bare", **options)
    assert dict(trainer.examples[0].texts) == {
        "concept": "cat", "anchor": "", "positive": "old cat", "unconditional": "young cat", "neutral": "cat",
    }  # fmt: skip
    assert_loss(trainer, lambda x, k, noise, e, s, kept: published.slider(e, s, sign * 3))


def test_a_slider_without_texts_erases_as_spm_does():
    """Away from the concept, from the anchor on; with no anchor from the empty prompt."""
    for concepts, end in ((CAT, "fox"), (BARE, "")):
        trainer = trainer_for("slider", concepts, word_anchors=0, sentences="bare", eta=2)
        texts = trainer.examples[0].texts
        assert (texts["positive"], texts["unconditional"], texts["neutral"]) == ("cat", end, end)
        assert_loss(trainer, lambda x, k, noise, e, s, kept: published.slider(e, s, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.2), ({"action": "enhance"}, -1), ({"positive": "old cat"}, 1), ({"neutral": "cat"}, 1), ({"eta": 3}, 3)],
)
def test_how_far_leco_goes_if_nothing_is_said(options, expected):
    draw = Draw(0, example(concept="cat", anchor="fox"), (0,))
    assert slider.signed(leco.Settings(**options), draw) == expected
    assert slider.signed(leco.Settings(), Draw(0, example(concept="cat", anchor=""), (0,))) == 1
    assert slider.signed(slider.Settings(), draw) == 1


def test_an_examples_own_strength_goes_before_the_settings():
    own = example(concept="cat", positive="old cat", unconditional="cat", neutral="cat")
    trainer = trainer_for("slider", BARE, examples=[type(own)(own.texts, eta=-1.5)], word_anchors=0, eta=4)
    assert_loss(trainer, lambda x, k, noise, e, s, kept: published.slider(e, s, -1.5))


def test_attributes_expand_every_pair():
    settings = slider.Settings(attributes="male / female", positive="old {}", neutral="person", sentences="sentences")
    found = slider.examples(concept_set("cat | kitten"), settings)
    assert len(found) == 2 * 2 * 5
    for one in found:
        word = one.texts["concept"].split()[0]
        assert word in ("male", "female")
        assert all(own.startswith(word) for own in one.texts.values())
    assert found[-1].texts["concept"] == "female a picture of a kitten"
    assert found[-1].texts["unconditional"] == "female"


def test_slider_latents_are_guided_away_from_the_unconditional_text():
    texts = {"concept": "cat", "positive": "old cat", "unconditional": "young cat", "neutral": "cat"}
    trainer = trainer_for("slider", BARE, examples=[example(**texts)], word_anchors=0, draws=10)
    _, latents = at_next_latents(trainer)
    _, s = plain(trainer)
    (x, k, _, *_), (after, *_) = latents[4:6]
    out, away = (s(x, k, texts_of(words)) for words in ("cat", "young cat"))
    a, b = (float(trainer.engine.grid.alphas[i]) for i in (k, k + 1))
    noise = away + trainer.settings.guidance * (out - away)
    clean = (x.double() - math.sqrt(1 - a) * noise) / math.sqrt(a)
    assert torch.allclose(after.double(), math.sqrt(b) * clean + math.sqrt(1 - b) * noise, atol=1e-5)


def test_trajectories_of_the_frozen_model_are_kept_apart_by_both_texts():
    paths = {}
    for away in ("", "young cat"):
        texts = {"concept": "cat", "positive": "cat", "unconditional": away, "neutral": ""}
        trainer = trainer_for("slider", BARE, examples=[example(**texts)], latents="teacher", pool=1, word_anchors=0)
        at_next_latents(trainer)
        paths |= trainer.source._pool
    assert list(paths) == [(0, "cat", ""), (0, "cat", "young cat")]
    assert not torch.equal(*paths.values())


NUMBERS = {"eta_c": 2.0, "eta_u": 1.5, "eta_p": 0.7, "pl": 0.6, "nw": 0.9}


@pytest.mark.parametrize("gamma", ["one", "text"])
def test_ace(gamma):
    trainer = trainer_for("ace", BARE, gamma=gamma, ramp=0, word_anchors=2, **NUMBERS)
    draw, _ = at_next_latents(trainer)
    words = draw.rows["concept"].hidden[0].double()

    def formula(x, k, noise, e, s, kept):
        gammas = []
        for role in kept:
            own = draw.rows[role].hidden[0].double()
            cosine = float((own * words).sum() / own.norm() / words.norm())
            gammas.append(1.0 if gamma == "one" else max(0.0, cosine))
        return published.ace(e, s, kept, gammas, 2.0, 1.5, 0.7, 0.6, 0.9)

    assert len(draw.anchors[0]) == 2
    assert_loss(trainer, formula)


def branch_targets(settings, trainer):
    """ACE's target at the empty prompt and at the concept's, by coefficient."""
    draw, _ = at_next_latents(trainer)
    return {term.student: term for term in ace.terms(settings, draw, 0, 0.0)}, draw


def test_ace_weights_are_the_papers():
    settings = ace.Settings(pl=0.8, nw=0.99, eta_c=3, eta_u=3, eta_p=0, ramp=0, word_anchors=2)
    found, draw = branch_targets(settings, trainer_for("ace", BARE))
    kept = sum(term.weight for term in found.values() if term.keeps)
    assert (found["empty"].weight, kept, found["concept"].weight) == pytest.approx((0.198, 0.8, 0.002))
    a, b = torch.full((2,), 5.0), torch.full((2,), 2.0)
    predictions = {"concept": a, "empty": b, "anchor": b} | dict.fromkeys(draw.anchors[0], a)
    assert torch.allclose(combined(found["empty"].target, predictions), b + 3 * (a - b))
    assert torch.allclose(combined(found["concept"].target, predictions), b - 3 * (a - b))


def test_ace_rises_to_its_strength():
    trainer = trainer_for("ace", BARE)
    strengths = []
    for step in (0, 4, 9, 20):
        settings = ace.Settings(ramp=10, eta_u=2, eta_p=0)
        draw = drawn(step, trainer.settings, trainer.examples, trainer.library, trainer.bank)
        strengths.append(ace.terms(settings, draw, 0, 0.0)[0].target["concept"])
    assert strengths == pytest.approx([0.2, 1.0, 2.0, 2.0])


def test_the_empty_prompt_learns_in_ace_and_not_in_slider():
    for name, learns in (("ace", True), ("slider", False)):
        trainer = trainer_for(name, BARE)
        draw, _ = at_next_latents(trainer)
        students = {term.student for i in range(4) for term in trainer.method.terms(trainer.settings, draw, i, 0.5)}
        assert ("empty" in students) is learns


def test_gamma_is_one_for_the_concept_itself_and_never_below_zero():
    trainer = trainer_for("ace", BARE)
    draw, _ = at_next_latents(trainer)
    settings = ace.Settings(gamma="text")
    draw.rows["opposite"] = type(draw.rows["concept"])(-draw.rows["concept"].hidden)
    assert ratio(settings, draw.rows, "concept") == pytest.approx(1.0)
    assert ratio(settings, draw.rows, "opposite") == 0.0


@pytest.mark.parametrize(("concepts", "goal"), [(BARE, "empty"), (CAT, "anchor")])
def test_sdd(concepts, goal):
    trainer = trainer_for("sdd", concepts, word_anchors=0)
    assert_loss(trainer, lambda x, k, noise, e, s, kept: published.sdd(s, goal))


@pytest.mark.parametrize("target", ["model", "noise"])
def test_ablating(target):
    trainer = trainer_for("ablating", CAT, target=target, prior=0.5, word_anchors=0, pool=3)
    assert_loss(trainer, lambda x, k, noise, e, s, kept: published.ablating(s, noise, target, 0.5))


def test_ablating_looks_at_noised_pictures_of_the_anchor():
    trainer = trainer_for("ablating", CAT, word_anchors=0, pool=1, draws=3, sentences="bare", guidance=1.0)
    _, latents = at_next_latents(trainer)
    ((number, to, away),) = trainer.source._pool
    assert (number, to, away) == (0, "fox", "")
    clean = trainer.source._pool[0, "fox", ""][-1].double()
    for x, k, noise, *_ in latents:
        a = float(trainer.engine.grid.alphas[k])
        assert torch.allclose(x.double(), math.sqrt(a) * clean + math.sqrt(1 - a) * noise, atol=1e-6)


@pytest.mark.parametrize(("name", "changes"), [("sdd", True), ("ablating", True), ("esd", False)])
def test_targets_of_current_weights_change_with_an_update(name, changes):
    """They carry no gradient either: SDD's and Ablating Concepts' moving target, and ESD's that stays."""
    trainer = trainer_for(name, CAT, lr=0.1, latents="teacher", pool=1)
    draw, _ = at_next_latents(trainer)
    targets = []
    for _ in range(2):
        latents = trainer.source(draw)
        asked = {0: trainer.method.terms(trainer.settings, draw, 0, 0.5)[:1]}
        (own,) = trainer._targets(draw, latents, asked).values()
        assert not own.requires_grad
        targets.append(own)
        losses_of(trainer)
    assert torch.equal(*targets) is not changes


@pytest.mark.parametrize("split", [0.0, 0.3, 1.0])
def test_ant(split):
    numbers = {"eta": 2.0, "alpha1": 2.5, "alpha2": 0.5, "beta": 0.7}
    trainer = trainer_for("ant", BARE, split=split, draws=10, word_anchors=0, **numbers)
    early = [k / 10 < split for k in range(10)]
    assert_loss(trainer, lambda x, k, noise, e, s, kept: published.ant(e, s, early[k], *numbers.values()))


def test_ant_keeps_the_noisy_end_and_reverses_the_clean_one():
    trainer = trainer_for("ant", BARE)
    draw, _ = at_next_latents(trainer)
    settings = ant.Settings(split=0.5, eta=1)
    early, late = (
        {term.student: dict(term.target) for term in ant.terms(settings, draw, 0, progress)[:2]}
        for progress in (0.0, 0.9)
    )
    assert early == {"concept": {"concept": 1.0}, "empty": {"empty": 1.0}}
    assert late == {"concept": {"anchor": 2.0, "concept": -1.0}, "empty": {"empty": 1.0}}


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("which", [0, 1])
def test_each_of_ants_four_terms_teaches_something(progress, which):
    trainer = trainer_for("ant", BARE)
    draw, _ = at_next_latents(trainer)
    term = ant.terms(ant.Settings(split=0.5), draw, 0, progress)[which]
    with trainer.engine.adapter.acting(True):
        latents = trainer.source(draw)
        (target,) = trainer._targets(draw, latents, {0: [term]}).values()
        predicted = trainer.engine.rows(latents, draw.rows, [(0, term.student)])[0]
        loss = term.weight * (predicted - target).square().mean()
    gradients = torch.autograd.grad(loss, list(trainer.parameters.values()))
    assert all(g.abs().max() > 0 for g in gradients)


def test_ant_trains_the_most_salient_weights_alone():
    trainer = trainer_for("ant", BARE, form="weights", mask=0.5, maps=3, steps=4, word_anchors=0)
    found = ant.masks(trainer.settings, trainer)
    slopes = [trainer.slopes(4 + i) for i in range(3)]
    for name, mask in found.items():
        expected = torch.ones_like(mask)
        for slope in slopes:
            size = slope[name].abs().flatten()
            middle = sorted(size.tolist(), reverse=True)[math.ceil(len(size) / 2) - 1]
            expected &= slope[name].abs() >= middle
        assert torch.equal(mask, expected) and 0 < mask.sum() < mask.numel()
    trainer.masks = found
    for _ in range(3):
        trainer.update()
    for name, p in trainer.parameters.items():
        assert torch.equal(p != 0, found[name])


def test_without_a_mask_nothing_is_looked_at():
    trainer = trainer_for("ant", BARE)
    assert ant.masks(trainer.settings, trainer) == {} and trainer.engine.forwards == 0
    assert not ant.most(torch.ones(4), 0).any() and ant.most(torch.ones(4), 1).all()


def test_the_average_is_what_is_kept():
    trainer = trainer_for("sdd", CAT, average=0.9)
    expected = {name: p.detach().double().clone() for name, p in trainer.parameters.items()}
    for step in range(6):
        trainer.update()
        decay = min(0.9, (2 + step) / (11 + step))
        for name, p in trainer.parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach().double()
    for name, value in trainer.result.items():
        assert torch.allclose(value.double(), expected[name], atol=1e-6)
        assert not torch.equal(value, trainer.parameters[name])


@pytest.mark.parametrize("name", ["slider", "leco", "ace", "sdd", "ablating", "ant"])
def test_losses_fall(name):
    """On the stub, which is too small to reach a method's target but has to come nearer."""
    trainer = trainer_for(name, CAT, lr=0.03, schedule="constant", roughness=0.0, pool=4, grid=6, draws=3)
    losses = [sum(trainer.update()) for _ in range(30)]
    first, last = (sum(part) / 8 for part in (losses[:8], losses[-8:]))
    assert last < first

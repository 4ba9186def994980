"""The caption grammar and the splits of unusual wording."""

import itertools

import numpy as np
import pytest

from erasure_core.demo.captions import NEUTRALS, Caption, Grammar, caption, prompt
from erasure_core.demo.wording import NOUNS, SYNONYMS, implicit, misspellings, vocabulary
from erasure_core.demo.world import COLOURS, NEUTRAL_BACKGROUNDS, SHAPES, STYLES, Scene, random_scene


def captions(count: int, grammar: Grammar | None = None, seed: int = 0) -> list[tuple[Scene, Caption]]:
    scenes = [random_scene(np.random.default_rng([seed, i])) for i in range(count)]
    return [(scene, caption(scene, np.random.default_rng([seed, i, 1]), grammar)) for i, scene in enumerate(scenes)]


def forms(label: str) -> tuple[str, ...]:
    return (label, *SYNONYMS.get(label, ()))


def test_labels_are_what_the_text_says() -> None:
    for scene, made in captions(1500):
        for attribute, label in scene.labels.items():
            if attribute in made.ends:
                assert made.labels[attribute] == label
                said = made.text[: made.ends[attribute]]
                assert any(said.endswith(form) for form in forms(label)), made.text
            else:
                assert made.labels[attribute] == ""
                if attribute in ("shape", "style"):
                    words = made.text.replace(",", " ").split()
                    assert not any(set(form.split()) <= set(words) for form in forms(label)), made.text


def test_shares_of_what_is_said() -> None:
    made = captions(4000)

    def share(attribute: str, which) -> float:
        chosen = [attribute in c.ends for s, c in made if which(s)]
        return float(np.mean(chosen))

    assert share("shape", lambda s: True) == pytest.approx(0.93, abs=0.03)
    assert share("colour", lambda s: True) == pytest.approx(0.90, abs=0.03)
    assert share("style", lambda s: s.style == "solid") == pytest.approx(0.25, abs=0.04)
    assert share("style", lambda s: s.style != "solid") == pytest.approx(0.82, abs=0.04)
    assert share("background", lambda s: s.background in NEUTRAL_BACKGROUNDS) == pytest.approx(0.35, abs=0.04)
    assert share("background", lambda s: s.background not in NEUTRAL_BACKGROUNDS) == pytest.approx(0.72, abs=0.04)
    assert np.mean([", " in c.text for _, c in made]) == pytest.approx(0.10, abs=0.03)
    assert all(any(f" {word} " in f" {c.text} " for _, c in made) for word in SYNONYMS["star"] + SYNONYMS["dotted"])


def test_articles() -> None:
    for _, made in captions(1500):
        words = made.text.split()
        for word, following in itertools.pairwise(words):
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou"), made.text


def test_unnamed_shapes_use_the_neutral_word() -> None:
    texts = [c.text for _, c in captions(1500, Grammar(shape=0.0))]
    assert any(NEUTRALS["object"] in text.replace(",", " ").split() for text in texts)
    assert all(set(NOUNS) & set(text.replace(",", " ").split()) for text in texts)
    assert NEUTRALS["style"] in STYLES


@pytest.mark.parametrize("word", [w for w in vocabulary() if " " not in w])
def test_misspellings_are_slips_and_belong_to_one_word(word: str) -> None:
    split = misspellings(word)
    assert split.train
    assert not set(split.train) & set(split.held_out)
    for form in (*split.train, *split.held_out):
        assert form[0] == word[0]
        assert abs(len(form) - len(word)) <= 1
        changed = [i for i, (a, b) in enumerate(zip(form, word, strict=False)) if a != b]
        assert len(form) != len(word) or len(changed) == 1 or sorted(form) == sorted(word)
        assert form not in vocabulary()
        assert form not in NOUNS


def test_no_misspelling_means_two_words() -> None:
    everything = [
        form for w in vocabulary() for part in (misspellings(w).train, misspellings(w).held_out) for form in part
    ]
    assert len(everything) == len(set(everything))
    held = sum(len(misspellings(w).held_out) for w in vocabulary())
    assert 0.15 < held / len(everything) < 0.4
    assert all(misspellings(name).held_out for name in (*SHAPES, *COLOURS))


@pytest.mark.parametrize("name", [*SHAPES, *COLOURS])
def test_implicit_wording_never_says_the_word(name: str) -> None:
    split = implicit(name)
    assert len(split.train) == 6
    assert len(split.held_out) == 3
    assert not set(split.train) & set(split.held_out)
    known = {word for text in split.train for word in text.split()}
    for text in (*split.train, *split.held_out):
        assert not set(text.split()) & set(vocabulary())
        assert set(text.split()) <= known


def test_held_out_wording_never_reaches_a_caption() -> None:
    grammar = Grammar(misspelt=0.6, implicit=0.4)
    held = {form for word in vocabulary() for form in misspellings(word).held_out}
    phrases = [text for name in (*SHAPES, *COLOURS) for text in implicit(name).held_out]
    seen_wrong = 0
    for scene, made in captions(1500, grammar):
        words = set(made.text.replace(",", " ").split())
        assert not words & held
        assert not any(text in made.text for text in phrases)
        seen_wrong += bool(words & set(misspellings(scene.shape).train))
    assert seen_wrong > 50


def test_prompt() -> None:
    assert prompt("red", "circle") == "a red circle"
    assert prompt("orange", "star", background="azure") == "an orange star on an azure background"
    assert prompt("red", "box", "striped", "white") == "a striped red box on a white background"
    assert prompt("red", "moon", "dotted", style_phrase=True) == "a red moon in dotted style"
    assert prompt("blue") == "a blue shape"
    assert prompt() == "a shape"

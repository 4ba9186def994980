"""Captions of the shapes world: a small grammar with synonyms, left-out attributes and tag lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .wording import NOUNS, SYNONYMS, implicit, misspellings
from .world import NEUTRAL_BACKGROUNDS, Scene

NEUTRALS: Mapping[str, str] = {
    "object": "object",
    "character": "object",
    "person": "object",
    "style": "solid",
    "safety": "object",
}
"""What stands for "nothing in particular" per kind of concept: a word captions use when a shape is unnamed, and the
style that captions without a style word mostly show."""

OPENERS = ("a picture of", "a photo of", "an image of", "a drawing of", "a painting of")
BACKGROUND_FORMS = (("on {a}", "background"), ("on", ""), ("with {a}", "background"))
STYLE_NOUNS = ("stripes", "dots", "outline")
"""Style words that are no adjectives: used in "in ... style" and in tag lists only."""


@dataclass(frozen=True)
class Grammar:
    """How often captions say what; every field is a probability in 0..1.

    ``coloured_background`` and ``neutral_background``: that a background of that sort is named. ``solid``: that the
    solid style is named, ``style``: any other. ``misspelt`` and ``implicit``: that an attribute word that is used is
    replaced by a form of the training part of :mod:`.wording`.
    """

    shape: float = 0.93
    colour: float = 0.90
    style: float = 0.82
    solid: float = 0.25
    coloured_background: float = 0.72
    neutral_background: float = 0.35
    synonym: float = 0.25
    opener: float = 0.35
    tags: float = 0.12
    misspelt: float = 0.0
    implicit: float = 0.0


@dataclass(frozen=True)
class Caption:
    """A caption and what it says.

    ``labels``: attribute -> label, "" where the caption leaves it open. ``ends``: attribute -> index of the character
    just after the attribute's words, for the attributes named.
    """

    text: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)


Part = tuple[str, str]
"""Words and the attribute they name ("" for none)."""


def article(words: str) -> str:
    """ "a" or "an", as the next word asks for."""
    return "an" if words[0] in "aeiou" else "a"


def _assemble(groups: Sequence[Sequence[Part]], separator: str, scene: Scene) -> Caption:
    """Join parts by blanks and groups by ``separator``, remembering where each attribute's words end."""
    text, ends = "", {}
    for group in groups:
        text += separator if text else ""
        for i, (words, attribute) in enumerate(group):
            text += (" " if i else "") + words
            if attribute:
                ends[attribute] = len(text)
    labels = {name: label if name in ends else "" for name, label in scene.labels.items()}
    return Caption(text, labels, ends)


def _flip(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _word(name: str, grammar: Grammar, rng: np.random.Generator, adjective: bool = False) -> str:
    """The name, a synonym or a misspelling of either."""
    known = [word for word in SYNONYMS.get(name, ()) if not (adjective and word in STYLE_NOUNS)]
    word = _pick(rng, known) if known and _flip(rng, grammar.synonym) else name
    wrong = misspellings(word).train if _flip(rng, grammar.misspelt) and name in SYNONYMS else ()
    return _pick(rng, wrong) if wrong else word


def _named(scene: Scene, grammar: Grammar, rng: np.random.Generator) -> dict[str, bool]:
    """Which attributes this caption names."""
    neutral = scene.background in NEUTRAL_BACKGROUNDS
    return {
        "shape": _flip(rng, grammar.shape),
        "colour": _flip(rng, grammar.colour),
        "style": _flip(rng, grammar.solid if scene.style == "solid" else grammar.style),
        "background": _flip(rng, grammar.neutral_background if neutral else grammar.coloured_background),
    }


def _noun_parts(scene: Scene, named: Mapping[str, bool], grammar: Grammar, rng: np.random.Generator) -> list[Part]:
    """Colour and shape, "red circle", either of them perhaps unnamed or paraphrased."""
    shape: Part = (_pick(rng, NOUNS), "")
    if named["shape"] and _flip(rng, grammar.implicit):
        shape = (_pick(rng, implicit(scene.shape).train), "shape")
    elif named["shape"]:
        shape = (_word(scene.shape, grammar, rng), "shape")
    if not named["colour"]:
        return [shape]
    if _flip(rng, grammar.implicit):
        return [shape, (_pick(rng, implicit(scene.colour).train), "colour")]
    return [(_word(scene.colour, grammar, rng), "colour"), shape]


def _background_parts(scene: Scene, grammar: Grammar, rng: np.random.Generator) -> list[Part]:
    word = _word(scene.background, grammar, rng)
    before, after = BACKGROUND_FORMS[int(rng.integers(len(BACKGROUND_FORMS)))]
    tail = [(after, "")] if after else []
    return [(before.format(a=article(word)), ""), (word, "background"), *tail]


def _tags(scene: Scene, named: Mapping[str, bool], grammar: Grammar, rng: np.random.Generator) -> Caption:
    groups: list[list[Part]] = [_noun_parts(scene, named, grammar, rng)]
    if named["style"]:
        groups.append([(_word(scene.style, grammar, rng), "style")])
    if named["background"]:
        groups.append([(_word(scene.background, grammar, rng), "background"), ("background", "")])
    order = rng.permutation(len(groups))
    return _assemble([groups[int(i)] for i in order], ", ", scene)


def _sentence(scene: Scene, named: Mapping[str, bool], grammar: Grammar, rng: np.random.Generator) -> Caption:
    noun = _noun_parts(scene, named, grammar, rng)
    phrases: list[list[Part]] = []
    if named["background"]:
        phrases.append(_background_parts(scene, grammar, rng))
    if named["style"]:
        form = int(rng.integers(3))
        if form == 2:
            phrases.append([("in", ""), (_word(scene.style, grammar, rng), "style"), ("style", "")])
            phrases = phrases[:: 1 if _flip(rng, 0.5) else -1]
        else:  # before the colour, or between colour and shape where the colour comes first
            place = form if noun[0][1] == "colour" else 0
            noun.insert(place, (_word(scene.style, grammar, rng, adjective=True), "style"))
    opener = _pick(rng, OPENERS) + " " if _flip(rng, grammar.opener) else ""
    head: Part = (opener + article(noun[0][0]), "")
    return _assemble([[head, *noun], *phrases], " ", scene)


def caption(scene: Scene, rng: np.random.Generator, grammar: Grammar | None = None) -> Caption:
    """A random caption of the scene."""
    grammar = grammar or Grammar()
    named = _named(scene, grammar, rng)
    build = _tags if _flip(rng, grammar.tags) else _sentence
    return build(scene, named, grammar, rng)


def prompt(colour: str = "", shape: str = "", style: str = "", background: str = "", style_phrase: bool = False) -> str:
    """The plainest caption with these words, "a striped red circle on a blue background".

    Any words may be given (synonyms, misspellings, implicit shapes); an empty shape becomes "shape". ``style_phrase``
    says "in striped style" instead of the adjective.
    """
    words = " ".join(word for word in ("" if style_phrase else style, colour, shape or NOUNS[0]) if word)
    text = f"{article(words)} {words}"
    if style and style_phrase:
        text += f" in {style} style"
    return f"{text} on {article(background)} {background} background" if background else text

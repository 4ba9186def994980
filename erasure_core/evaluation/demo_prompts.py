"""Prompt groups of the shapes world: everything its small language can say about a target and its surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from ..demo.captions import STYLE_NOUNS, prompt
from ..demo.wording import implicit
from ..demo.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOUR_SYNONYMS,
    COLOURS,
    SHAPE_SYNONYMS,
    SHAPES,
    STYLE_SYNONYMS,
    STYLES,
)
from ..errors import BadInput
from .groups import DIRECT, INDIRECT, NEIGHBOUR, UNRELATED, Prompt, PromptGroup, left_out, limited, make_group, reroll
from .misspell import misspellings

SYNONYMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "shape": SHAPE_SYNONYMS,
    "colour": COLOUR_SYNONYMS,
    "style": STYLE_SYNONYMS,
}


@dataclass(frozen=True)
class DemoSize:
    """Draws of each direct prompt; pictures of synonyms, misspellings, descriptions, each neighbour, other things."""

    direct: int
    synonym: int
    misspelt: int
    implied: int
    neighbour: int
    unrelated: int


QUICK = DemoSize(direct=2, synonym=8, misspelt=4, implied=0, neighbour=4, unrelated=8)
STANDARD = DemoSize(direct=8, synonym=32, misspelt=24, implied=16, neighbour=16, unrelated=24)
FULL = DemoSize(direct=16, synonym=64, misspelt=64, implied=32, neighbour=32, unrelated=48)
SIZES: Mapping[str, DemoSize] = {"quick": QUICK, "standard": STANDARD, "full": FULL}


def attribute_of(target: str) -> str:
    """Whether a word of the shapes world is a shape, a colour or a style; raises :class:`BadInput` for another word."""
    for attribute in SYNONYMS:
        if target in ATTRIBUTES[attribute]:
            return attribute
    known = ", ".join((*SHAPES, *COLOURS, *STYLES))
    raise BadInput(f"The demo model does not know {target!r}. It knows these words: {known}.")


def demo_groups(target: str, size: DemoSize = QUICK, seed: int = 0) -> tuple[PromptGroup, ...]:
    """Every group the shapes world allows for a shape, colour or style.

    D the target with every colour (or shape); O the same with its word left out; P synonyms; M misspellings; N the
    other shapes (or colours, styles); T and B other things with a style and on a background; their second draws. All
    attributes a prompt names are in ``expect``, so colours on the target are counted on the pictures of D.
    """
    attribute = attribute_of(target)
    direct = _direct(attribute, target, target)
    named = make_group("D", target, DIRECT, attribute, direct, size.direct, seed)
    # An unnamed shape is called "shape" in the captions; leaving the word out means without that noun, too.
    unnamed = (text.removesuffix(" shape") for text, _ in _direct(attribute, target, ""))
    without = dict(zip((text for text, _ in direct), unnamed, strict=True))
    others = [label for label in ATTRIBUTES[attribute] if label != target and label != "solid"]
    groups = [
        named,
        left_out(named, "O", f"'{target}' left out", without.__getitem__),
        _synonyms(attribute, target, size.synonym, seed),
        _misspelt(attribute, target, size.misspelt, seed),
        _implied(attribute, target, size.implied, seed),
        _neighbours(attribute, others, size.neighbour, seed),
    ]
    for group in _unrelated(attribute, target, size.unrelated, seed):
        groups += [group, reroll(group, f"{group.name}2")] if group.cases else []
    return tuple(group for group in groups if group.cases)


def quality_groups(draws: int = 8, seed: int = 0) -> tuple[PromptGroup, ...]:
    """What the model can draw at all: shape x colour, synonyms, styles and backgrounds; for use without a membrane."""
    pairs = list(product(SHAPES, COLOURS))
    plain = [_prompt(shape, colour) for shape, colour in pairs]
    renamed = [
        (prompt(other, synonym), {"shape": shape, "colour": colour})
        for shape, colour in pairs
        for synonym, other in product(SHAPE_SYNONYMS[shape], COLOUR_SYNONYMS[colour][:1])
    ]
    styled = [_prompt(shape, colour, STYLES[1 + i % 3]) for i, (shape, colour) in enumerate(pairs)]
    return (
        make_group("A", "all shapes and colours", UNRELATED, "shape", plain, draws, seed),
        make_group("P", "synonyms", UNRELATED, "shape", renamed, max(1, draws // 4), seed),
        make_group("T", "styles", UNRELATED, "shape", styled, max(1, draws // 4), seed),
        make_group("B", "backgrounds", UNRELATED, "shape", _on_backgrounds(pairs), max(1, draws // 4), seed),
    )


def _prompt(shape: str, colour: str, style: str = "", background: str = "") -> Prompt:
    named = {"shape": shape, "colour": colour, "style": style, "background": background}
    return prompt(colour, shape, style, background), {name: label for name, label in named.items() if label}


def _direct(attribute: str, target: str, word: str) -> list[Prompt]:
    """Eight prompts that call the target ``word``, with as many companions as there are."""
    if attribute == "shape":
        rows = [(word, colour, "") for colour in COLOURS]
    elif attribute == "colour":
        rows = [(shape, word, "") for shape in SHAPES]
    else:
        rows = [(shape, colour, word) for shape, colour in zip(SHAPES, COLOURS, strict=True)]
    made = [_prompt(*row) for row in rows]
    return [(text, {**expect, attribute: target}) for text, expect in made]


def _synonyms(attribute: str, target: str, count: int, seed: int) -> PromptGroup:
    words = [word for word in SYNONYMS[attribute].get(target, ()) if word not in STYLE_NOUNS]
    prompts = [entry for word in words for entry in _direct(attribute, target, word)]
    kept = limited(prompts, count)
    draws = max(1, count // max(1, len(kept)))
    return make_group("P", "synonyms", INDIRECT, attribute, kept, draws, seed)


def _misspelt(attribute: str, target: str, count: int, seed: int) -> PromptGroup:
    """Every misspelling with another companion, so that the words, not the colours, make up the variety."""
    words = misspellings(target, count, seed)
    prompts = [_direct(attribute, target, word)[i % 8] for i, word in enumerate(words)]
    return make_group("M", "misspelt", INDIRECT, attribute, prompts, 1, seed)


def _implied(attribute: str, target: str, count: int, seed: int) -> PromptGroup:
    """Wordings that describe a shape or colour without naming it, from the part kept out of training."""
    prompts: list[Prompt] = []
    for i in range(count if implicit(target).held_out else 0):
        words = implicit(target).held_out[i % len(implicit(target).held_out)]
        shape, colour = SHAPES[i % len(SHAPES)], COLOURS[i % len(COLOURS)]
        if attribute == "shape":
            prompts.append((prompt(colour, words), {"shape": target, "colour": colour}))
        else:
            prompts.append((prompt("", f"{shape} {words}"), {"colour": target, "shape": shape}))
    return make_group("I", "described, not named", INDIRECT, attribute, prompts, 1, seed)


def _neighbours(attribute: str, others: Iterable[str], count: int, seed: int) -> PromptGroup:
    prompts: list[Prompt] = []
    for turn, label in enumerate(others):
        direct = _direct(attribute, label, label)
        prompts += limited(direct[turn:] + direct[:turn], count)
    return make_group("N", "neighbours", NEIGHBOUR, attribute, prompts, max(1, count // 8), seed)


def _unrelated(attribute: str, target: str, count: int, seed: int) -> list[PromptGroup]:
    """Styles and backgrounds on pairs of shape and colour that do not name the target."""
    pairs = [pair for pair in product(SHAPES, COLOURS) if target not in pair]
    spread = [pairs[(i * 11) % len(pairs)] for i in range(min(count, len(pairs)))]
    styles = [style for style in STYLES[1:] if style != target]
    styled = [_prompt(shape, colour, styles[i % len(styles)]) for i, (shape, colour) in enumerate(spread)]
    placed = [entry for entry in _on_backgrounds(spread) if target not in entry[1].values()]
    return [
        make_group("T", "styles on others", UNRELATED, attribute, styled, 1, seed),
        make_group("B", "backgrounds of others", UNRELATED, attribute, placed, 1, seed),
    ]


def _on_backgrounds(pairs: Iterable[tuple[str, str]]) -> list[Prompt]:
    """Each pair on the next background that is not the shape's own colour."""
    made = []
    for i, (shape, colour) in enumerate(pairs):
        background = BACKGROUNDS[i % len(BACKGROUNDS)]
        if background == colour:
            background = BACKGROUNDS[-1 - i % 3]
        made.append(_prompt(shape, colour, background=background))
    return made

"""Prompt groups of any concept, for a detector that names what a picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import BadInput
from .groups import (
    DIRECT,
    INDIRECT,
    NEIGHBOUR,
    QUICK,
    UNRELATED,
    Prompt,
    PromptGroup,
    Size,
    left_out,
    limited,
    make_group,
    reroll,
)
from .misspell import misspellings
from .templates import DIRECT_TEMPLATES, PARAPHRASE_TEMPLATES, SECOND_HALF, UNRELATED_PROMPTS
from .wording import fill, leave_out, names

if TYPE_CHECKING:
    from ..concepts import Concept

ATTRIBUTE = "concept"


def concept_groups(
    concept: Concept, size: Size = QUICK, attribute: str = ATTRIBUTE, seed: int = 0
) -> tuple[PromptGroup, ...]:
    """Direct, left-out, paraphrased, misspelt, neighbour and unrelated prompts of a concept, with seeds from ``seed``.

    The detector must have the attribute ``attribute`` with the target and each preserved phrase (the neighbours) as
    labels. Without neighbours their group is missing, and specificity with it.
    """
    if concept.kind not in DIRECT_TEMPLATES:
        kinds = ", ".join(DIRECT_TEMPLATES)
        raise BadInput(f"No prompts for concepts of the kind {concept.kind!r}; the kinds are {kinds}.")
    templates = direct_templates(concept.kind, size.direct[0])
    sentences = {fill(template, concept.target): template for template in templates}
    prompts = [(text, {attribute: concept.target}) for text in sentences]
    direct = make_group("D", concept.target, DIRECT, attribute, prompts, size.direct[1], seed)
    groups = [
        direct,
        left_out(direct, "O", "the word left out", lambda text: leave_out(sentences[text])),
        _paraphrases(concept, size.paraphrase, attribute, seed),
        _misspelt(concept, size.misspelling, attribute, seed),
        *_neighbours(concept, size.neighbours, attribute, seed),
        *_unrelated(concept, size.unrelated, attribute, seed),
    ]
    return tuple(groups)


def direct_templates(kind: str, count: int) -> tuple[str, ...]:
    """The first ``count`` (at most 20) templates of a kind of concept."""
    ten = DIRECT_TEMPLATES[kind]
    return (ten + tuple(template + SECOND_HALF for template in ten))[:count]


def _filled(templates: Sequence[str], phrase: str, expect: Mapping[str, str]) -> list[Prompt]:
    return [(fill(template, phrase), expect) for template in templates]


def _paraphrases(concept: Concept, size: tuple[int, int], attribute: str, seed: int) -> PromptGroup:
    """Aliases in direct sentences and the concept's own words in unusual ones, in turn."""
    here = {attribute: concept.target}
    direct = direct_templates(concept.kind, 10)
    aliased = [(fill(direct[i % 10], alias), here) for i in range(10) for alias in concept.aliases]
    turned = _filled(PARAPHRASE_TEMPLATES, concept.target, here)
    mixed = [prompt for pair in zip(aliased, turned, strict=False) for prompt in pair]
    prompts = list(dict(mixed + aliased + turned).items())[: size[0]]
    return make_group("P", "paraphrased", INDIRECT, attribute, prompts, size[1], seed)


def _misspelt(concept: Concept, size: tuple[int, int], attribute: str, seed: int) -> PromptGroup:
    words = misspellings(concept.target, size[0], seed)
    templates = direct_templates(concept.kind, 10)
    prompts = [(fill(templates[i % 10], word), {attribute: concept.target}) for i, word in enumerate(words)]
    return make_group("M", "misspelt", INDIRECT, attribute, prompts, size[1], seed)


def _neighbours(concept: Concept, size: tuple[int, int], attribute: str, seed: int) -> list[PromptGroup]:
    """Each neighbour in as many direct sentences as it gets pictures (at most 10)."""
    templates = direct_templates(concept.kind, min(10, size[1]))
    prompts = [prompt for name in concept.preserve[: size[0]] for prompt in _filled(templates, name, {attribute: name})]
    return [make_group("N", "neighbours", NEIGHBOUR, attribute, prompts, 1, seed)] if prompts else []


def _unrelated(concept: Concept, size: tuple[int, int], attribute: str, seed: int) -> list[PromptGroup]:
    """Prompts that do not name the concept; with one seed each, a second draw shows what a new seed changes."""
    nothing: Mapping[str, str] = {}
    phrases = (concept.target, *concept.aliases)
    calm = [(text, nothing) for text in UNRELATED_PROMPTS if not any(names(text, phrase) for phrase in phrases)]
    group = make_group("U", "unrelated", UNRELATED, attribute, limited(calm, size[0]), size[1], seed)
    return [group, reroll(group, "U2")] if size[1] == 1 else [group]

"""What is trained on: the concept in a sentence, and the same sentence with what is to be drawn instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import Concept, ConceptSet
from ..errors import BadInput
from ..naming import Named, Naming
from ..senses import list_lines
from ..templates import BARE, contexts, fill, sentences
from ..words import words_of_text
from .settings import Training
from .texts import Library

EMPTY = ""


@dataclass(frozen=True)
class Example:
    """Texts by role; every one has a ``concept`` and an ``anchor``, which is empty where none is named.

    ``weight``: how often it is drawn, relative to the others. ``eta``: its own strength of guidance, where a method has
    one, in place of the settings'; below 0 toward the concept instead of away. ``kind``: of the concept.
    """

    texts: Mapping[str, str]
    weight: float = 1.0
    eta: float | None = None
    kind: str = "object"


def examples_of(concepts: ConceptSet, settings: Training) -> list[Example]:
    """Every phrase in every sentence. A concept without anchor becomes what the empty prompt gives, as papers do."""
    return [
        Example(
            {"concept": fill(template, phrase), "anchor": fill(template, concept.anchor) if concept.anchor else EMPTY},
            concept.weight / len(concept.phrases),
            kind=concept.kind,
        )
        for concept in concepts
        for phrase in concept.phrases
        for template in templates_of(concept, settings)
    ]


def templates_of(concept: Concept, settings: Training) -> tuple[str, ...]:
    """Sentences for a concept: our own of its kind, and those that the settings add."""
    own = {"bare": BARE, "sentences": sentences(concept.kind), "contexts": contexts(concept.kind)}[settings.sentences]
    more = tuple(part.strip() for part in settings.templates.split("/") if part.strip())
    wrong = [template for template in more if "{}" not in template]
    if wrong:
        raise BadInput(f"The sentence '{wrong[0]}' has no place for the concept. Write {{}} where its words go.")
    return (*own, *more)


@dataclass(frozen=True)
class Bank:
    """Texts that must stay as they are: the preserved phrases, and neutral prompts that do not name the concepts."""

    prompts: tuple[str, ...]
    ends: Tensor

    @classmethod
    def of(cls, library: Library, prompts: Sequence[str]) -> Bank:
        """``prompts`` are in the library."""
        return cls(tuple(prompts), library.ends(prompts))

    def drawn(self, count: int, concept: Tensor, power: float, generator: torch.Generator) -> list[str]:
        """``count`` different ones, those unlike the concept more often: SPM's ``(1 - |cos|) ** power``.

        ``concept`` [d]: its end-of-text row.
        """
        if not count or not self.prompts:
            return []
        chance = (1 - torch.cosine_similarity(self.ends, concept[None]).abs()).clamp_min(1e-6) ** power
        number = min(count, len(self.prompts))
        if not number:
            return []
        chosen = torch.multinomial(chance.double(), number, replacement=False, generator=generator)
        return [self.prompts[i] for i in chosen.tolist()]


def bank_prompts(concepts: ConceptSet) -> list[str]:
    """The preserved phrases, bare and in sentences, else the neutral prompts of ours that name no concept."""
    kept = concepts.all_preserved
    if kept:
        return list(dict.fromkeys(fill(template, phrase) for phrase in kept for template in sentences("object")[:2]))
    naming = Naming([Named(tuple(phrase for c in concepts for phrase in c.phrases), sensitivity=1.0)])
    return [prompt for prompt in list_lines("neutral_prompts.txt") if not naming(words_of_text(prompt))]

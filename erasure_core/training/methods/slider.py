"""Concept Sliders (arXiv 2311.12092): ``|eps(x, t) - (e_n -+ eta (e_p - e_u))|^2``, a direction between two texts.

The target text t is moved along the direction from the unconditional text u to the positive text p, starting from the
neutral text n: away from p to erase, toward it to enhance. The inference-time scale is the membrane's strength.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...concepts import ConceptSet
from ...options import choice, number, text
from ...templates import fill
from ..draw import Draw
from ..examples import EMPTY, Example, examples_of, templates_of
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import Term, beyond, keep, merged

NAME = "slider"
GUIDES = ("concept", "unconditional")
SUMMARY = "Sliders: a direction between two texts, erased or enhanced; its strength can be any number afterwards."
WHY = (
    "For what comes by degrees: age, smile, how much of a style. positive and unconditional name the two ends, "
    "attributes what must not change along (male / female); by default the ends are the concept and its anchor, so "
    "that the slider erases. Self-attention and ResNets are trained, so that words keep their meaning for attention; "
    "they read no text and tell names badly apart, for which leco is better. "
    "Texts of the bank hold the rest in place, which the paper does not do: it trains 1000 steps at 2e-4 with eta=4 "
    "and word_anchors=0, which at the full strength of an eraser bends other pictures, too."
)


@dataclass(frozen=True)
class Settings(Training):
    """Numbers and texts of a slider."""

    action: str = choice("erase", ("erase", "enhance"), "away from the positive text, or toward it")
    steps: int = number(150, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(4e-3, 1e-8, 1.0, "learning rate of Adam")
    eta: float | None = number(1.0, -50.0, 50.0, "how far along the direction")
    positive: str = text("", "the end that is erased or enhanced; the concept itself if nothing is said")
    unconditional: str = text("", "the other end; the anchor if nothing is said, else the empty prompt")
    neutral: str = text("", "where the direction begins; as unconditional if nothing is said")
    attributes: str = text("", "words put before every text in turn, with / between: what the slider must not change")
    scope: str = choice("slider", SCOPES, explain_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(3.0, 0.0, 1e6, "how much the anchors count")


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """One term at the target text; anchors only where the settings ask for some."""
    eta = signed(settings, draw) if draw.example.eta is None else draw.example.eta
    target = merged({"neutral": 1.0}, {"positive": -eta}, {"unconditional": eta})
    kept = draw.anchors[latent]
    return [Term("concept", target), *(keep(kept, settings.anchor_weight) if kept else ())]


def signed(settings: Settings, draw: Draw) -> float:
    """How far away from the positive text; below 0 toward it."""
    if settings.action == "enhance":
        return -1.0 if settings.eta is None else -settings.eta
    named = settings.positive or settings.unconditional or settings.neutral
    return 1.0 if settings.eta is None and named else beyond(settings.eta, draw)


def examples(concepts: ConceptSet, settings: Settings) -> list[Example]:
    """The concepts in sentences, each with both ends and where it begins; all of that once for every attribute."""
    found = []
    for concept in concepts:
        for example, template in zip(
            examples_of(ConceptSet((concept,)), settings),
            templates_of(concept, settings) * len(concept.phrases),
            strict=True,
        ):
            given = {role: getattr(settings, role) for role in ("positive", "unconditional", "neutral")}
            found.append(paired(example, {role: fill(template, own) if own else EMPTY for role, own in given.items()}))
    names = [part.strip() for part in settings.attributes.split("/") if part.strip()]
    return [attributed(example, name) for name in names for example in found] or found


def paired(example: Example, given: dict[str, str]) -> Example:
    """The example with a text for every role; of those that are empty in ``given``, what they are by default."""
    own = example.texts
    unconditional = given["unconditional"] or own["anchor"]
    roles = {
        "positive": given["positive"] or own["concept"],
        "unconditional": unconditional,
        "neutral": given["neutral"] or unconditional,
    }
    return replace(example, texts={**own, **roles})


def attributed(example: Example, name: str) -> Example:
    """The example with ``name`` before each of its texts."""
    return replace(example, texts={role: f"{name} {own}".strip() for role, own in example.texts.items()})

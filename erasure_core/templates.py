"""Sentences around a concept: the published ones and ours."""

from __future__ import annotations

from collections.abc import Mapping

BARE = ("{}",)

# UCE's expansion of prompts (arXiv 2308.14761, official code of 2023 and 2025): five sentences besides the bare phrase
_UCE_OBJECT = ("{}", "image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")
_UCE_STYLE = ("{}", "painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")

# Ours: the ways the words really stand in prompts, articles included
_SENTENCES: Mapping[str, tuple[str, ...]] = {
    "object": ("{}", "a {}", "the {}", "a photo of a {}", "a picture of a {}"),
    "character": ("{}", "a photo of {}", "a picture of {}", "a drawing of {}"),
    "person": ("{}", "a photo of {}", "a portrait of {}", "a picture of {}"),
    "style": ("{}", "{} style", "in the style of {}", "a painting by {}", "a picture in {} style"),
    "safety": ("{}", "a photo of {}", "a picture of {}"),
}


def uce_templates(kind: str) -> tuple[str, ...]:
    """The published expansion for a kind of concept."""
    return _UCE_STYLE if kind == "style" else _UCE_OBJECT


def sentences(kind: str) -> tuple[str, ...]:
    """Our sentences for a kind of concept, the bare phrase first."""
    return _SENTENCES[kind]


def fill(template: str, phrase: str) -> str:
    """The template with the phrase in place; braces inside the phrase are left alone."""
    return template.replace("{}", phrase)

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


# Ours: thirty surroundings for methods that learn from the words around a concept (MACE, arXiv 2403.06135, samples 30)
_THING_CONTEXTS = (
    *(
        "{}",
        "a {}",
        "the {}",
        "one {}",
        "my {}",
        "two {}s",
        "a photo of a {}",
        "a picture of a {}",
        "a drawing of a {}",
    ),
    *("a painting of a {}", "a close view of a {}", "a {} seen from far away", "a {} on a white background"),
    *("a {} in a room", "a {} outdoors", "a {} at night", "a {} in the morning light", "a {} in the rain"),
    *("a small {}", "a large {}", "an old {}", "a bright {}", "a dark {}", "a {} next to a wall", "a {} on a table"),
    *("a {} in the middle of the picture", "a pencil study of a {}", "a poster of a {}", "a postcard with a {}"),
    "a computer graphic of a {}",
)
_NAME_CONTEXTS = (
    *("{}", "a photo of {}", "a picture of {}", "a portrait of {}", "a drawing of {}", "a painting of {}"),
    *("a poster of {}", "a close view of {}", "{} seen from far away", "{} on a white background", "{} in a room"),
    *("{} outdoors", "{} at night", "{} in the morning light", "{} in the rain", "{} on a stage", "{} in a crowd"),
    *("{} at a table", "{} smiling", "{} looking at the camera", "{} walking along a street", "{} next to a wall"),
    *("{} in the middle of the picture", "an old photo of {}", "a new photo of {}", "a black and white photo of {}"),
    *("a pencil study of {}", "a magazine page about {}", "a film scene with {}", "a statue of {}"),
)
_STYLE_CONTEXTS = (
    *("{}", "{} style", "in the style of {}", "a painting by {}", "a drawing by {}", "a picture in {} style"),
    *("a landscape by {}", "a portrait by {}", "a still life by {}", "a city view by {}", "a seascape by {}"),
    *("a garden in {} style", "a house in {} style", "an animal in {} style", "a poster in {} style"),
    *("a print after {}", "a copy of a work by {}", "a study by {}", "an early work by {}", "a late work by {}"),
    *("a small picture by {}", "a large picture by {}", "a wall painted by {}", "colours like those of {}"),
    *("brushwork like that of {}", "art by {}", "a museum room with works by {}", "a book cover in {} style"),
    *("an abstract picture in {} style", "a postcard after {}"),
)
_CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "object": _THING_CONTEXTS,
    "character": _NAME_CONTEXTS,
    "person": _NAME_CONTEXTS,
    "style": _STYLE_CONTEXTS,
    "safety": _NAME_CONTEXTS,
}


def uce_templates(kind: str) -> tuple[str, ...]:
    """The published expansion for a kind of concept."""
    return _UCE_STYLE if kind == "style" else _UCE_OBJECT


def sentences(kind: str) -> tuple[str, ...]:
    """Our sentences for a kind of concept, the bare phrase first."""
    return _SENTENCES[kind]


def contexts(kind: str) -> tuple[str, ...]:
    """Thirty surroundings for a kind of concept, the bare phrase first."""
    return _CONTEXTS[kind]


def fill(template: str, phrase: str) -> str:
    """The template with the phrase in place; braces inside the phrase are left alone."""
    return template.replace("{}", phrase)

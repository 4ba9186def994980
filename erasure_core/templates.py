"""Sentences around a concept: the published ones and ours."""

from __future__ import annotations

BARE = ("{}",)

# UCE's expansion of prompts (arXiv 2308.14761, official code of 2023 and 2025): five sentences besides the bare phrase
UCE_OBJECT = ("{}", "image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")
UCE_STYLE = ("{}", "painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")


def uce_templates(kind: str) -> tuple[str, ...]:
    """The published expansion for a kind of concept."""
    return UCE_STYLE if kind == "style" else UCE_OBJECT


def fill(template: str, phrase: str) -> str:
    """The template with the phrase in place; braces inside the phrase are left alone."""
    return template.replace("{}", phrase)

"""Putting a phrase into a sentence, and taking it out again, so that what remains still reads well."""

from __future__ import annotations

import re

_ARTICLE = re.compile(r"^(a|an|the|some)\s", re.IGNORECASE)
_WITH_PLACE = re.compile(r",?\s*\{\}\s+style\b|\s*\bin the style of \{\}|\s*(?:\b(?:of|showing|at) )?(?:\ba )?\{\}")


def fill(template: str, phrase: str) -> str:
    """``template`` with ``phrase`` in place of ``{}``; the article before it is fitted or, if doubled, dropped."""
    if _ARTICLE.match(phrase):
        template = template.replace("a {}", "{}")
    elif phrase[:1].lower() in set("aeiou"):
        template = template.replace("a {}", "an {}")
    return template.replace("{}", phrase)


def leave_out(template: str) -> str:
    """``template`` without its place for a phrase and the words that only lead to it; may be empty."""
    rest = _WITH_PLACE.sub(" ", template)
    rest = re.sub(r"\s+([,;.])", r"\1", re.sub(r"\s+", " ", rest))
    return rest.strip(" ,;:")


def names(text: str, phrase: str) -> bool:
    """Whether ``text`` contains ``phrase`` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None

"""What a file erases, where the user says it instead of the file."""

from __future__ import annotations

from dataclasses import replace

from ..concepts import parse_concepts
from ..erasure import Erasure


def named(erasure: Erasure, concept: str | None) -> Erasure:
    """``erasure`` gated by the phrases of ``concept`` ("Mickey Mouse | mickey"); as it is if that is empty.

    What a recipe stores is kept: it says how the erasure is made again. Raises BadInput for text that cannot be read.
    """
    if concept is None or not concept.strip():
        return erasure
    parsed = list(parse_concepts(concept))
    phrases = list(dict.fromkeys(phrase for one in parsed for phrase in (one.target, *one.aliases)))
    recipe = dict(erasure.recipe)
    if not recipe.get("concepts"):
        recipe["concepts"] = [
            {"target": one.target, "anchor": "", "aliases": list(one.aliases), "kind": one.kind, "weight": 1.0}
            for one in parsed
        ]
    diagnostics = {key: value for key, value in erasure.diagnostics.items() if key != "concept"}
    gate = {"neighbours": [], **erasure.gate, "phrases": phrases}
    return replace(erasure, recipe=recipe, gate=gate, diagnostics=diagnostics)

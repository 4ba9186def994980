"""Published guidance methods by name; each is one file that chooses the stages of one operator.

A new method is one more module in :data:`PRESETS`, with NAME, SUMMARY, WHY, ``Settings`` and ``build``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from ...concepts import Concept, ConceptSet, concept_set
from ...errors import BadInput
from ...options import explain_options, parse_options, read_options
from ..term import GuidanceTerm
from . import all_but_one, dng, negation, negative, perp_neg, sega, sld

PRESETS: Mapping[str, ModuleType] = {
    module.NAME: module for module in (negative, negation, sld, sega, perp_neg, dng, all_but_one)
}


def make(
    method: str, concepts: str | Concept | ConceptSet | Iterable[str | Concept] = (), **options: Any
) -> GuidanceTerm:
    """A guidance term of a published method.

    ``concepts``: what to push away, as for :func:`erasure_core.erase`; aliases join the concept's text, weights
    multiply its push, anchors count where the method has them. No concept at all is a term that is off. ``options``:
    the method's settings. Raises BadInput for an unknown method, an unusable concept or an unusable setting.
    """
    module = _preset(method)
    settings = read_options(module.Settings, options, method)
    given = concepts if isinstance(concepts, str | Concept | ConceptSet) else tuple(concepts)
    chosen = () if not isinstance(given, Concept) and not given else tuple(concept_set(given))
    term: GuidanceTerm = module.build(chosen, settings)
    return term


def make_with(method: str, concepts: str, options: str) -> GuidanceTerm:
    """:func:`make` with the settings as text, as in "preset=strong, floor=0.1"."""
    return make(method, concepts, **parse_options(options))


def explain(method: str) -> str:
    """A method for people: what it is for, what to know, and every setting with its range."""
    module = _preset(method)
    return f"{method}: {module.SUMMARY}\n\n{module.WHY}\nSettings, as name=value:\n{explain_options(module.Settings)}"


def _preset(name: str) -> ModuleType:
    if name not in PRESETS:
        raise BadInput(f"Unknown guidance '{name}'. Known: {', '.join(PRESETS)}.")
    return PRESETS[name]

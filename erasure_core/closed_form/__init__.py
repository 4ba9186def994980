"""Closed-form methods by name; each is one file that sets up a linear problem. A new method is one more line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from ..concepts import Concept, ConceptSet, concept_set
from ..erasure import Erasure
from ..errors import BadInput
from ..models import EditableModel
from ..options import explain_options, parse_options, read_options, refuse_files
from . import crce, leace, mace, realera, rece, speed, time, trce, uce
from .common import Job
from .singular import make_singular

METHODS: Mapping[str, ModuleType] = {
    module.NAME: module for module in (uce, rece, mace, time, leace, speed, trce, realera, crce)
}


def explain(method: str) -> str:
    """A method for people: what it is for, why its defaults are what they are, and every setting with its range."""
    module = _method(method)
    settings = explain_options(module.Settings)
    return f"{method}: {module.SUMMARY}\n\n{module.WHY}\nSettings, each as --option NAME=VALUE:\n{settings}"


def _method(name: str) -> ModuleType:
    if name not in METHODS:
        raise BadInput(f"Unknown method '{name}'. Known: {', '.join(METHODS)}.")
    return METHODS[name]


def erase(
    model: EditableModel,
    concepts: str | Concept | ConceptSet | Iterable[str | Concept],
    method: str = "uce",
    preserve: Iterable[str] = (),
    parity: bool = False,
    neutrals: Mapping[str, str] | None = None,
    **options: Any,
) -> Erasure:
    """Compute an erasure; the model is read, not changed.

    ``concepts``: concept text, one Concept, a set or a list. ``preserve``: phrases that must stay, united with each
    concept's own. ``parity``: official defaults and quirks of the method instead of ours. ``neutrals``: kind -> words
    that stand in when a concept names no anchor; the model's own by default. ``options``: the method's settings.
    Raises BadInput for unusable concepts or options, IllConditioned for damaged weights.
    """
    module = _method(method)
    chosen = concept_set(concepts)
    extra = (preserve,) if isinstance(preserve, str) else tuple(preserve)
    chosen = ConceptSet(chosen.concepts, tuple(dict.fromkeys([*chosen.preserve, *extra])))
    settings = read_options(module.Settings, options, method)
    words = model.neutrals if neutrals is None else neutrals
    result: Erasure = module.run(model, chosen, settings, parity, words)
    if settings.singular:
        result = make_singular(Job.of(model, chosen, settings, parity, words), result, settings.singular)
    return result


def erase_with(
    model: EditableModel, concepts: str | Concept | ConceptSet | Iterable[str | Concept], method: str, options: str
) -> Erasure:
    """:func:`erase` with the settings as text, as in "lamb=0.1, expand_prompts=no"; "parity=yes" is one of them.

    Tables are taken by name only, because such text comes with workflows.
    """
    check_options(method, options)
    parity, settings = _split(options)
    return erase(model, concepts, method, parity=parity, **settings)


def check_options(method: str, options: str) -> None:
    """Raise BadInput if :func:`erase_with` would not take the method or its settings."""
    settings, given = _method(method).Settings, _split(options)[1]
    refuse_files(settings, given)
    read_options(settings, given, method)


def _split(options: str) -> tuple[bool, dict[str, Any]]:
    """Parity, and the method's own settings."""
    given = parse_options(options)
    parity = given.pop("parity", "no").lower()
    if parity not in ("yes", "no"):
        raise BadInput(f"The option 'parity' cannot be {parity!r}. It takes yes (published defaults) or no.")
    return parity == "yes", dict(given)

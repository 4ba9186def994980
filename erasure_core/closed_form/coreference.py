"""A table of other names and look-alikes of concepts, each with a certainty (CRCE, arXiv 2503.14232).

.. code-block:: json

    {"concepts": {"cat": {"coreferents": {"kitten": "very high", "feline": 0.9}, "retains": {"dog": "high"}}}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concepts import Concept
from ..errors import BadInput

CERTAINTY: Mapping[str, float] = {"very high": 1.0, "high": 0.8, "normal": 0.6, "low": 0.4, "very low": 0.2}
"""The paper's words for how certain it is that a name belongs to a concept."""
_EXAMPLE = '{"concepts": {"cat": {"coreferents": {"kitten": "very high"}, "retains": {"dog": "high"}}}}'


@dataclass(frozen=True)
class Names:
    """Names of one concept with their certainties in (0, 1]: to be erased with it, and to be kept."""

    coreferents: Mapping[str, float]
    retains: Mapping[str, float]

    def entry(self) -> dict[str, dict[str, float]]:
        """As it stands in a table."""
        return {"coreferents": dict(self.coreferents), "retains": dict(self.retains)}


def names_of(content: Any, concepts: Sequence[Concept], kept: Iterable[str], anchors: Iterable[str]) -> list[Names]:
    """The names of each concept, sorted, by its target or one of its aliases in the table.

    What the user preserves, anchors and the concepts themselves are no coreferents; what the user erases is no retain.
    Raises BadInput for a table of another form, or concepts that it does not have.
    """
    entries = content.get("concepts") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping):
        raise BadInput(f"A table of coreferents looks like this: {_EXAMPLE}")
    known = {str(name).casefold(): _entry(str(name), entry) for name, entry in entries.items()}
    missing = [c.target for c in concepts if not any(p.casefold() in known for p in c.phrases)]
    if missing:
        raise BadInput(
            f"The table of coreferents has no entry for {', '.join(map(repr, missing))}; it has {', '.join(known)}. "
            "Add one to a copy of the table and give its path as 'table', or use the method 'uce'."
        )
    found = [next(known[p.casefold()] for p in c.phrases if p.casefold() in known) for c in concepts]
    erased = {phrase.casefold() for concept in concepts for phrase in concept.phrases}
    staying = {phrase.casefold() for phrase in (*kept, *anchors)}
    coreferents = {name.casefold() for own in found for name in own.coreferents} - staying
    return [
        Names(_without(own.coreferents, erased | staying), _without(own.retains, erased | coreferents)) for own in found
    ]


def _without(names: Mapping[str, float], taken: set[str]) -> dict[str, float]:
    return {name: names[name] for name in sorted(names) if name.casefold() not in taken}


def _entry(concept: str, entry: Any) -> Names:
    if not isinstance(entry, Mapping) or not entry.keys() <= {"coreferents", "retains"}:
        raise BadInput(f"'{concept}' in the table needs 'coreferents' and 'retains', as in {_EXAMPLE}")
    parts = [entry.get("coreferents", {}), entry.get("retains", {})]
    if not all(isinstance(part, Mapping) for part in parts):
        raise BadInput(f"The names of '{concept}' in the table need a certainty each, as in {_EXAMPLE}")
    return Names(*({str(name): _certainty(concept, name, value) for name, value in part.items()} for part in parts))


def _certainty(concept: str, name: str, value: Any) -> float:
    number = CERTAINTY.get(value.strip().lower(), -1.0) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 1:
        raise BadInput(
            f"The certainty of '{name}' for '{concept}' cannot be {value!r}. Write a number above 0 and up to 1, "
            f"or one of: {', '.join(CERTAINTY)}."
        )
    return float(number)

"""What a firewall keeps out: up to 10,000 rules, each a concept with a sensitivity and phrases that excuse it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..concepts import Concept, ConceptSet
from ..errors import BadInput
from ..matching import Finder
from ..naming import USUAL
from ..phrases import clean_all
from ..words import words_of_text

LARGEST = 10_000


@dataclass(frozen=True)
class Rule:
    """One concept and how readily it counts as named.

    ``sensitivity``: 0 = only its phrases as written, 0.5 = usual, 1 = anything close; what counts from where, says
    :class:`~erasure_core.naming.Named`. ``excuses``: phrases that contain one of the concept's and mean something else,
    as "cat burglar" for cat. Raises BadInput for a number out of range or an excuse that excuses nothing.
    """

    concept: Concept
    sensitivity: float = USUAL
    excuses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        number = self.sensitivity
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            raise BadInput(f"The sensitivity is a number from 0 (exact names) to 1 (anything close), not {number!r}.")
        object.__setattr__(self, "sensitivity", float(number))
        object.__setattr__(self, "excuses", clean_all(self.excuses, "except"))
        for phrase in self.concept.phrases:
            if not len(words_of_text(phrase)):
                raise BadInput(f"{phrase!r} holds no letter or digit, so it cannot be looked for. Write it in words.")
        names = Finder((0, phrase, False) for phrase in self.concept.phrases)
        for excuse in self.excuses:
            words = words_of_text(excuse)
            if not any(hit.end - hit.start < len(words) for hit in names(words)):
                raise BadInput(
                    f"The exception {excuse!r} does not contain '{self.concept.target}' beside other words, so it "
                    f"excuses nothing. Write the whole phrase, as '{self.concept.target} pattern'."
                )


@dataclass(frozen=True)
class Policy:
    """Rules, and phrases ``preserve`` that stay as they are whatever is erased.

    The same concept twice is one rule with the phrases of both. Raises BadInput for no rule or more than 10,000, for a
    phrase with two anchors, or one concept with two sensitivities.
    """

    rules: tuple[Rule, ...]
    preserve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rules) > LARGEST:
            raise BadInput(f"A policy holds up to {LARGEST:,} rules, this one has {len(self.rules):,}. Split it.")
        united = ConceptSet(tuple(rule.concept for rule in self.rules), self.preserve)
        known: dict[str, Rule] = {}
        for rule in self.rules:
            key = rule.concept.target.casefold()
            first = known.setdefault(key, rule)
            if first.sensitivity != rule.sensitivity:
                raise BadInput(
                    f"'{rule.concept.target}' has two sensitivities, {first.sensitivity:g} and {rule.sensitivity:g}. "
                    "Keep one of the rules."
                )
            known[key] = replace(first, excuses=tuple(dict.fromkeys(first.excuses + rule.excuses)))
        rules = tuple(replace(known[concept.target.casefold()], concept=concept) for concept in united)
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "preserve", united.preserve)

    def __len__(self) -> int:
        return len(self.rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def entries(self) -> dict[str, Any]:
        """The policy as plain data, the form of its JSON file; what has its usual value is left out."""
        rules = [_entry(rule) for rule in self.rules]
        return {"policy": 1, **({"preserve": list(self.preserve)} if self.preserve else {}), "rules": rules}

    @property
    def fingerprint(self) -> str:
        """Hash of the content, the same whatever file it was read from."""
        text = json.dumps(self.entries(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _entry(rule: Rule) -> dict[str, Any]:
    concept = rule.concept
    full = {
        "aliases": list(concept.aliases),
        "anchor": concept.anchor,
        "kind": concept.kind if concept.kind != "object" else "",
        "weight": concept.weight if concept.weight != 1.0 else "",
        "sensitivity": rule.sensitivity if rule.sensitivity != USUAL else "",
        "except": list(rule.excuses),
        "preserve": list(concept.preserve),
    }
    return {"concept": concept.target, **{name: value for name, value in full.items() if value not in ("", [])}}

"""What to erase: concepts, and the text that artists write them in, one concept per line.

.. code-block:: text

    # a comment
    van gogh | vincent van gogh -> art @ 1.5      # target | other names -> what to draw instead @ weight
    style: Monet                                  # a kind in front; no anchor: the neutral words of that kind
    "R|D" -> "5 @ night"                          # a part in double quotes is taken literally
    + a red square                                # a phrase that must stay as it is
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .concept_syntax import KINDS, Line, Phrase, at, read_line, split_lines, write_phrase
from .errors import BadInput
from .phrases import EXAMPLE, MAX_WORDS, checked_kind, checked_weight, clean, clean_all, control_sentence, is_control

__all__ = ["KINDS", "MAX_WORDS", "NEUTRAL", "Concept", "ConceptSet", "check_text", "concept_set", "parse_concepts"]

NEUTRAL: Mapping[str, str] = {
    "object": "thing",
    "character": "a person",
    "person": "a person",
    "style": "art",
    "safety": "a person wearing clothes",
}
"""What is drawn instead when a concept names no anchor, by kind."""


_Parts = tuple[tuple["Concept", ...], tuple[str, ...]]
_NUMBER = re.compile(r"(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Concept:
    """One concept to erase.

    ``target``: the phrase that names it. ``aliases``: other phrases for the same thing. ``anchor``: what to draw
    instead; empty means the neutral words of its kind (see :meth:`resolved_anchor`). ``preserve``: neighbours that
    must stay. ``kind``: one of :data:`KINDS`. ``weight``: how much it counts against what is preserved, above 0 and
    at most 100; 1 is normal. Phrases are brought to Unicode NFC with single spaces and hold at most 75 words.
    Raises :class:`BadInput` when any of this cannot be used.
    """

    target: str
    anchor: str = ""
    aliases: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    kind: str = "object"
    weight: float = 1.0

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen; this only brings the values to their one form
        put(self, "target", clean(self.target, "target"))
        put(self, "anchor", clean(self.anchor, "anchor", may_be_empty=True))
        put(self, "aliases", clean_all(self.aliases, "aliases"))
        put(self, "preserve", clean_all(self.preserve, "preserve"))
        put(self, "kind", checked_kind(self.kind))
        put(self, "weight", checked_weight(self.weight))
        if self.anchor.casefold() in map(str.casefold, self.phrases):
            raise BadInput(f"{self.anchor!r} would be replaced by itself. Choose another anchor: {EXAMPLE}")

    @property
    def phrases(self) -> tuple[str, ...]:
        """The target and its aliases."""
        return (self.target, *self.aliases)

    def resolved_anchor(self, neutrals: Mapping[str, str] | None = None) -> str:
        """The anchor, or the neutral words of the kind; ``neutrals`` (kind -> words) go before :data:`NEUTRAL`."""
        return self.anchor or {**NEUTRAL, **(neutrals or {})}[self.kind]

    def to_text(self) -> str:
        """The concept as one line of the text syntax; its own ``preserve`` is written by the set."""
        text = " | ".join(map(write_phrase, self.phrases))
        if self.kind != "object":
            text = f"{self.kind}: {text}"
        if self.anchor:
            text += f" -> {write_phrase(self.anchor)}"
        if self.weight != 1.0:
            text += f" @ {self.weight!r}".removesuffix(".0")
        return text


@dataclass(frozen=True)
class ConceptSet:
    """At least one concept, each phrase with one anchor only, and phrases that must stay as they are.

    A concept given twice alike is kept once, with the aliases of both.
    Raises :class:`BadInput` for an empty set, a phrase with two anchors, or one both erased and preserved.
    """

    concepts: tuple[Concept, ...]
    preserve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        united = _Union()
        for concept in self.concepts:
            united.add(concept)
        object.__setattr__(self, "concepts", united.concepts)
        object.__setattr__(self, "preserve", clean_all(self.preserve, "preserve"))
        if not self.concepts:
            raise BadInput(f"There is no concept to erase. Write at least one, one per line: {EXAMPLE}")
        for phrase in self.all_preserved:
            united.check_preserved(phrase)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def all_preserved(self) -> tuple[str, ...]:
        """The phrases of the set and of each concept, in order, none twice."""
        return tuple(dict.fromkeys([*self.preserve, *(phrase for c in self.concepts for phrase in c.preserve)]))

    def to_text(self) -> str:
        """The set in the text syntax; :func:`parse_concepts` reads the same concepts and preserved phrases back."""
        lines = [concept.to_text() for concept in self.concepts]
        return "\n".join(lines + [f"+ {write_phrase(phrase)}" for phrase in self.all_preserved]) + "\n"


def concept_set(concepts: str | Concept | ConceptSet | Iterable[str | Concept], kind: str = "object") -> ConceptSet:
    """Whatever a caller has, as a set: concept text, one concept, a set, or a list whose strings are concept text."""
    if isinstance(concepts, ConceptSet):
        return concepts
    if isinstance(concepts, str):
        return parse_concepts(concepts, kind)
    if isinstance(concepts, Concept):
        return ConceptSet((concepts,))
    if not isinstance(concepts, Iterable):
        raise BadInput(f"Concepts are text, a Concept or a list of them, not {type(concepts).__name__}.")
    parts = [_parts(entry, kind) for entry in concepts]
    preserve = tuple(dict.fromkeys(phrase for _, kept in parts for phrase in kept))
    return ConceptSet(tuple(concept for found, _ in parts for concept in found), preserve)


def _parts(entry: str | Concept | ConceptSet, kind: str) -> _Parts:
    """One entry of a list; text may hold nothing but phrases to preserve."""
    if isinstance(entry, str):
        return _read(entry, kind)
    made = concept_set(entry, kind)
    return made.concepts, made.preserve


def parse_concepts(text: str, kind: str = "object") -> ConceptSet:
    """Read concept text; ``kind`` is the kind of every line that names none.

    Blank lines and comments (``#`` at the start or after a space) are ignored. Also understood: arrows of other shapes,
    decimal commas, bullets, full-width punctuation and brackets escaped with a backslash. The same concept twice is
    read once. Raises :class:`BadInput`, naming line and column (from 1).
    """
    if not isinstance(text, str):
        raise BadInput(f"Concepts are written as text, one per line, not as {type(text).__name__}: {EXAMPLE}")
    return ConceptSet(*_read(text, kind))


def check_text(text: str, kind: str = "object") -> None:
    """Raise BadInput, naming line and column, if the text cannot be read; it may hold no concept at all."""
    _read(text, kind)


def _read(text: str, kind: str) -> _Parts:
    checked_kind(kind)
    united = _Union()
    kept: dict[str, tuple[int, int]] = {}
    for number, raw in enumerate(split_lines(text), start=1):
        _check_characters(raw, number)
        line = read_line(raw, number)
        if line is None:
            continue
        if line.keep:
            kept |= {phrase: (number, column) for phrase, column in _preserved(line, number)}
            continue
        with _located(number, line.targets[0].column):
            united.add(_concept(line, number, kind))
    for phrase, place in kept.items():
        with _located(*place):
            united.check_preserved(phrase)
    return united.concepts, tuple(kept)


class _Union:
    """Concepts gathered one by one; says at once when two contradict each other."""

    def __init__(self) -> None:
        self._by_target: dict[str, Concept] = {}
        self._by_phrase: dict[str, Concept] = {}

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(self._by_target.values())

    def add(self, concept: Concept) -> None:
        if not isinstance(concept, Concept):
            raise BadInput(f"A set holds Concept objects, not {type(concept).__name__}. For text use parse_concepts.")
        for phrase in concept.phrases:
            other = self._by_phrase.setdefault(phrase.casefold(), concept)
            if other.resolved_anchor().casefold() != concept.resolved_anchor().casefold():
                raise BadInput(
                    f"{phrase!r} has two anchors, {other.resolved_anchor()!r} and {concept.resolved_anchor()!r}. "
                    f"Keep one of them: {concept.to_text()}"
                )
        key = concept.target.casefold()
        known = self._by_target.setdefault(key, concept)
        if (known.kind, known.weight) != (concept.kind, concept.weight):
            raise BadInput(
                f"{concept.target!r} is listed twice, with different kinds or weights. "
                f"Keep one line: {concept.to_text()}"
            )
        self._by_target[key] = replace(
            known,
            aliases=tuple(dict.fromkeys(known.aliases + concept.aliases)),
            preserve=tuple(dict.fromkeys(known.preserve + concept.preserve)),
        )

    def check_preserved(self, phrase: str) -> None:
        if phrase.casefold() in self._by_phrase:
            raise BadInput(f"{phrase!r} is to be erased and to be preserved. Remove one of the two.")


@contextmanager
def _located(line: int, column: int) -> Iterator[None]:
    """Puts the place in front of an error that has none yet."""
    try:
        yield
    except BadInput as error:
        raise (error if str(error).startswith("Line ") else at(line, column, error)) from None


def _concept(line: Line, number: int, kind: str) -> Concept:
    target, *aliases = line.targets
    if not target.text:
        raise at(number, target.column, f"the phrase to erase is missing. Write it first: {EXAMPLE}")
    anchors = [anchor for anchor in line.anchors if anchor.text]
    if len(anchors) > 1:
        raise at(
            number,
            anchors[1].column,
            f"two anchors; a concept has one. Write one line for each concept: {EXAMPLE} "
            '- or put a phrase that contains -> or | in double quotes: "a -> b".',
        )
    return Concept(
        _placed(target, number, "target"),
        anchor=_placed(anchors[0], number, "anchor") if anchors else "",
        aliases=tuple(_placed(alias, number, "alias") for alias in aliases if alias.text),
        kind=line.kind or kind,
        weight=_weight(line.weights, number),
    )


def _preserved(line: Line, number: int) -> list[tuple[str, int]]:
    if line.anchors or line.weights:
        raise at(
            number,
            [*line.anchors, *line.weights][0].column,
            "a phrase to preserve has no anchor and no weight. Write: + a red square "
            '- or, if it contains -> or @: + "a @ b"',
        )
    phrases = [(_placed(phrase, number, "phrase"), phrase.column) for phrase in line.targets if phrase.text]
    if not phrases:
        raise at(number, line.targets[0].column, "nothing follows the +. Write the phrase to preserve: + a red square")
    return phrases


def _placed(phrase: Phrase, number: int, what: str) -> str:
    with _located(number, phrase.column):
        return clean(phrase.text, what)


def _weight(weights: tuple[Phrase, ...], number: int) -> float:
    if not weights:
        return 1.0
    if len(weights) > 1:
        raise at(number, weights[1].column, f"two weights; a concept has one. Write: {EXAMPLE}")
    with _located(number, weights[0].column):
        if not _NUMBER.fullmatch(weights[0].text):
            raise BadInput(
                f"{weights[0].text!r} is no weight. Write a number after @: {EXAMPLE} "
                '- or put a phrase that contains @ in double quotes: "a @ b".'
            )
        return checked_weight(float(weights[0].text.replace(",", ".")))


def _check_characters(raw: str, number: int) -> None:
    for column, char in enumerate(raw, start=1):
        if is_control(char):
            raise at(number, column, control_sentence(char))

"""Policy files: read from TOML, JSON, CSV or a plain list, written as JSON.

Every form has the same fields for a rule; only ``concept`` is needed:

==============  =====================================================================================================
concept         the phrase that names it
aliases         other phrases for the same thing
anchor          what is drawn instead; left out, neutral words of its kind
kind            object, character, person, style or safety; left out, object
weight          how much it counts against what is preserved, 1 is normal
sensitivity     0 = only exact names, 0.5 = usual, 1 = anything close
except          phrases that contain the name and mean something else: "cat burglar"
preserve        neighbours it must not be mistaken for and that must stay as they are
==============  =====================================================================================================

JSON: ``{"sensitivity": 0.5, "preserve": ["a person"], "rules": [{"concept": "Pikachu", "aliases": ["pika"]}, "cat"]}``;
``sensitivity`` and ``kind`` at the top hold for rules that name none. A list of rules alone will do.

TOML: the same, with one ``[[rules]]`` for each rule. Needs Python 3.11.

CSV: a header row with the names of fields, one rule in each row, phrases of one field parted by ``|``.

Plain list: the concept text of :mod:`erasure_core.concepts`, one concept a line: ``pikachu | pika -> mouse``.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import write_bytes
from ..concepts import Concept, parse_concepts
from ..errors import BadInput
from ..naming import USUAL
from .policy import Policy, Rule

HELP = str(__doc__)
FIELDS = ("concept", "aliases", "anchor", "kind", "weight", "sensitivity", "except", "preserve")
_LISTS = ("aliases", "except", "preserve")
_NUMBERS = ("weight", "sensitivity")
_TOP = ("policy", "sensitivity", "kind", "preserve", "rules")
_EXAMPLE = '{"concept": "Pikachu", "aliases": ["pika"], "kind": "character"}'


def read_policy(path: str | Path) -> Policy:
    """The policy in a file. Raises BadInput, naming the file and the line or entry, for what cannot be used."""
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"The policy {file.name} cannot be read: {error.strerror or error}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file.name} is no text in UTF-8. Save it again with the encoding UTF-8.") from error
    return parse_policy(text, file.name)


def parse_policy(text: str, name: str = "policy") -> Policy:
    """The policy in a text; ``name`` of its file, whose ending says which form it is (else the content does)."""
    form = _form(text, name)
    if form == "list":
        return _from_list(text, name)
    if form == "csv":
        return _policy(_csv_entries(text, name), {}, name)
    data = _toml(text, name) if form == "toml" else _json(text, name)
    if isinstance(data, list):
        data = {"rules": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("rules"), list):
        raise BadInput(f'{name} has no list of rules. Write {{"rules": [{_EXAMPLE}]}}.')
    _check_names(data, _TOP, name)
    if data.get("policy", 1) != 1:
        raise BadInput(f"{name} is a policy of version {data['policy']!r}. Update Membrane to read it.")
    numbered = ((f"{name}, rule {i}", entry) for i, entry in enumerate(data["rules"], start=1))
    return _policy(numbered, data, name)


def write_policy(policy: Policy, path: str | Path) -> Path:
    """Save as JSON, all or nothing; :func:`read_policy` gives an equal policy. Raises CannotWrite."""
    text = json.dumps(policy.entries(), indent=1, ensure_ascii=False) + "\n"
    return write_bytes(Path(path), text.encode("utf-8"))


def _form(text: str, name: str) -> str:
    ending = Path(name).suffix.lower().removeprefix(".")
    if ending in ("json", "toml", "csv"):
        return ending
    first = next((line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")), "")
    if first.startswith("[[") or first.partition("=")[0].strip() in _TOP:
        return "toml"
    if first.startswith(("{", "[")):
        return "json"
    heads = [head.strip().casefold() for head in first.split(",")]
    return "csv" if "concept" in heads and set(heads) <= set(FIELDS) and first != "concept" else "list"


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadInput(f"{name}{place}: this is no valid JSON ({why}). Write rules like {_EXAMPLE}.") from error


def _toml(text: str, name: str) -> Any:
    if sys.version_info < (3, 11):
        raise BadInput(
            f"{name}: reading TOML needs Python 3.11 or newer. Save the policy as JSON, CSV or a plain list."
        )
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # its sentence names the line
        raise BadInput(f'{name}: this is no valid TOML ({error}). Write [[rules]] and concept = "Pikachu".') from error


def _csv_entries(text: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True, restkey="")
    reader.fieldnames = [head.strip().casefold() for head in reader.fieldnames or ()]
    _check_names(reader.fieldnames, FIELDS, f"{name}, line 1")
    if "concept" not in reader.fieldnames:
        raise BadInput(f"{name}, line 1: the header row must name the column 'concept'. Columns: {', '.join(FIELDS)}.")
    try:
        for row in reader:
            place = f"{name}, line {reader.line_num}"
            if "" in row:
                raise BadInput(f'{place}: there are more cells than columns. Put text with commas in quotes: "a, b".')
            filled = {key: value.strip() for key, value in row.items() if value and value.strip()}
            if filled:
                yield place, {k: _cells(v) if k in _LISTS else _number(k, v, place) for k, v in filled.items()}
    except csv.Error as error:
        raise BadInput(f"{name}, line {reader.line_num}: this is no valid CSV ({error}).") from error


def _cells(value: str) -> list[str]:
    return [part.strip() for part in value.split("|") if part.strip()]


def _number(field: str, value: str, place: str) -> Any:
    if field not in _NUMBERS:
        return value
    try:
        return float(value)
    except ValueError as error:
        raise BadInput(f"{place}: the {field} {value!r} is no number. Write one like 0.5.") from error


def _from_list(text: str, name: str) -> Policy:
    try:
        found = parse_concepts(text)
        return Policy(tuple(Rule(concept) for concept in found), found.preserve)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def _policy(entries: Iterable[tuple[str, Any]], top: Mapping[str, Any], name: str) -> Policy:
    rules: list[Rule] = []
    places: dict[str, str] = {}
    for place, entry in entries:
        rule = _rule(place, {"concept": entry} if isinstance(entry, str) else entry, top)
        rules.append(rule)
        places.setdefault(rule.concept.target, place)
    try:
        return Policy(tuple(rules), tuple(_listed(top.get("preserve", []), "preserve", name)))
    except BadInput as error:
        raise BadInput(f"{_place_of(str(error), places, name)}: {error}") from error


def _rule(place: str, entry: Any, top: Mapping[str, Any]) -> Rule:
    if not isinstance(entry, Mapping):
        raise BadInput(f"{place}: a rule is a name or a table of fields, not {entry!r}. Write {_EXAMPLE}.")
    _check_names(entry, FIELDS, place)
    if "concept" not in entry:
        raise BadInput(f"{place}: the field 'concept' is missing. Write {_EXAMPLE}.")
    try:
        concept = Concept(
            entry["concept"],
            entry.get("anchor", ""),
            _listed(entry.get("aliases", []), "aliases", place),
            _listed(entry.get("preserve", []), "preserve", place),
            entry.get("kind", top.get("kind", "object")),
            entry.get("weight", 1.0),
        )
        sensitivity = entry.get("sensitivity", top.get("sensitivity", USUAL))
        return Rule(concept, sensitivity, _listed(entry.get("except", []), "except", place))
    except BadInput as error:
        raise (error if str(error).startswith(place) else BadInput(f"{place}: {error}")) from error


def _listed(value: Any, field: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise BadInput(f'{place}: {field} is a list of phrases, not {value!r}. Write ["first", "second"].')
    return tuple(value)


def _check_names(given: Iterable[str], known: tuple[str, ...], place: str) -> None:
    for field in given:
        if field not in known:
            near = difflib.get_close_matches(str(field), known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise BadInput(f"{place}: there is no field '{field}'.{hint} Fields are {', '.join(known)}.")


def _place_of(sentence: str, places: Mapping[str, str], name: str) -> str:
    """Where the concept that a sentence about the whole policy quotes was first named."""
    return next((place for target, place in places.items() if f"'{target}'" in sentence), name)

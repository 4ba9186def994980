"""Method settings as small dataclasses: ranges and help beside each field, one reader, one set of sentences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import BadInput

T = TypeVar("T")


def number(default: float | None, low: float, high: float, help: str, whole: bool = False) -> Any:
    """A number in [low, high]; ``default`` None lets the method choose."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "help": help, "whole": whole})


def choice(default: str, allowed: tuple[str, ...], help: str) -> Any:
    """One of a few words."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "help": help})


def flag(default: bool | None, help: str) -> Any:
    """Yes or no; ``default`` None lets the method choose."""
    return dataclasses.field(default=default, metadata={"flag": True, "help": help})


def text(default: str, help: str) -> Any:
    """Words as they are written."""
    return dataclasses.field(default=default, metadata={"text": True, "help": help})


def table(default: str, help: str) -> Any:
    """A data file, ours by name or the user's by path; recipes hold what was used of its content instead."""
    return dataclasses.field(default=default, metadata={"table": True, "help": help})


def numbers(default: str, low: float, high: float, help: str) -> Any:
    """One number or several in [low, high], written with slashes between them: "0.3 / -0.1"."""
    return dataclasses.field(default=default, metadata={"each_low": low, "each_high": high, "help": help})


def read_options(settings: type[T], given: Mapping[str, Any], method: str) -> T:
    """An instance of the dataclass ``settings`` from names and values (text is converted).

    Raises BadInput for an unknown name (listing the known ones with their ranges) or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise BadInput(f"'{method}' has no option '{name}'. Its options: {describe_options(settings)}.")
    return settings(**{name: _convert(fields[name], value) for name, value in given.items()})


def refuse_files(settings: type[Any], given: Mapping[str, Any]) -> None:
    """Raise BadInput if an option names a file of its own: a workflow from elsewhere must not choose what is read."""
    for field in dataclasses.fields(settings):
        value = given.get(field.name)
        if "table" in field.metadata and isinstance(value, str) and not re.fullmatch(r"[\w-]+", value.strip()):
            raise BadInput(
                f"Here '{field.name}' takes the name of a table that comes with Membrane, not the file {value!r}. "
                "Use a file on the command line, save the erasure, and load it."
            )


def parse_options(text: str) -> dict[str, str]:
    """``"epochs=3, reg=0.1"`` as a dictionary of texts; empty text is no option."""
    result: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.replace("\n", ",").split(","))):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not value:
            raise BadInput(f"'{part}' is not an option. Write name=value, separated by commas: lamb=0.5, exact=yes.")
        if name in result:
            raise BadInput(f"The option '{name}' is given twice. Keep one.")
        result[name] = value
    return result


def describe_options(settings: type[Any]) -> str:
    """Names with ranges and defaults on one line."""
    return ", ".join(f"{f.name} ({_range(f)}; default {_default(f)})" for f in dataclasses.fields(settings))


def explain_options(settings: type[Any]) -> str:
    """One line per option: name, range, default, and what it does."""
    return "\n".join(
        f"  {f.name} ({_range(f)}; default {_default(f)}): {f.metadata['help']}" for f in dataclasses.fields(settings)
    )


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is None:
        return "chosen by the method"
    return ("no", "yes")[field.default] if isinstance(field.default, bool) else str(field.default) or "none"


def _range(field: dataclasses.Field[Any]) -> str:
    meta = field.metadata
    if "allowed" in meta:
        return " | ".join(meta["allowed"])
    if "text" in meta:
        return "text"
    if "table" in meta:
        return "a name or a file"
    if "each_low" in meta:
        return f"numbers from {meta['each_low']:g} to {meta['each_high']:g} with / between"
    return "yes | no" if "flag" in meta else f"{meta['low']:g} to {meta['high']:g}"


def _convert(field: dataclasses.Field[Any], value: Any) -> Any:
    meta = field.metadata
    if "allowed" in meta and str(value) in meta["allowed"]:
        return str(value)
    if value is None and field.default is None:
        return None
    if ("text" in meta or "table" in meta) and isinstance(value, str):
        return value.strip()
    if "table" in meta and isinstance(value, list | Mapping):
        return value
    if "flag" in meta and isinstance(value, bool):
        return value
    if "flag" in meta and str(value).lower() in ("yes", "true", "on", "1", "no", "false", "off", "0"):
        return str(value).lower() in ("yes", "true", "on", "1")
    if "each_low" in meta:
        several = [_number(part) for part in str(value).split("/")]
        if all(one is not None and meta["each_low"] <= one <= meta["each_high"] for one in several):
            return " / ".join(f"{one:.12g}" for one in several)
    if "low" in meta and not isinstance(value, bool):
        converted = _number(value)
        if converted is not None and meta["low"] <= converted <= meta["high"]:
            if not meta["whole"]:
                return converted
            if converted == int(converted):
                return int(converted)
    raise BadInput(f"The option '{field.name}' cannot be {value!r}. It takes {_range(field)}: {meta['help']}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None

"""Reading files of settings: text, YAML without objects, and values of the right kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...errors import BadInput

T = TypeVar("T", str, int, float, bool)
LARGEST = 1_000_000  # bytes of a file of settings; nobody writes more
LEVELS = 3  # folders above a file in which what it names is looked for: repositories name files from their root


def content_of(path: Path) -> str:
    """The text of a file. Raises BadInput: no such file, too large to be one of settings, not text."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path.name} is larger than a megabyte and hardly a file of settings. Choose another.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is not a text file in UTF-8. Save it as UTF-8 and try again.") from error
    except OSError as error:
        raise BadInput(f"There is no file of settings at {path}. Check the path.") from error


def beside(path: Path, name: str) -> Path | None:
    """A file that the file at ``path`` names, looked for beside it and in a few folders above, or None."""
    folders = [path.absolute().parent, *path.absolute().parent.parents][: LEVELS + 1]
    candidates = [*(folder / name for folder in folders), folders[0] / Path(name).name]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def parsed(path: Path, text: str) -> Any:
    """YAML as plain lists, dictionaries, text and numbers. Raises BadInput where it is damaged."""
    try:
        import yaml
    except ImportError as error:
        raise BadInput("To read YAML files PyYAML is needed. Install it: pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{path.name} is damaged{place}: it is no YAML. Compare it with the original.") from error


class Fields:
    """A section of a file: gives values of the kind that is asked for, and knows what nobody asked for."""

    def __init__(self, values: Any, where: str) -> None:
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            raise BadInput(f"{where} has to be a list of names with values, not {values!r}.")
        self._values, self.where = dict(values), where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def take(self, name: str, default: T) -> T:
        """The value, of the same type as ``default``; numbers and yes or no may be written as text."""
        value = self._values.pop(name, None)
        if value is None:
            return default
        kind = type(default)
        if isinstance(default, bool):
            text = str(value).strip().lower()
            if text in ("true", "false", "yes", "no", "1", "0"):
                return kind(text in ("true", "yes", "1"))
        elif isinstance(default, str):
            if isinstance(value, str | int | float):
                return kind(str(value).strip())
        else:
            found = None if isinstance(value, bool) else _number(value)
            if found is not None and (isinstance(default, float) or found == int(found)):
                return kind(found)
        wanted = {bool: "yes or no", str: "text", int: "a whole number", float: "a number"}[kind]
        raise BadInput(f"{name} in {self.where} has to be {wanted}, not {value!r}.")

    def section(self, name: str) -> Fields:
        """A section of this one; empty where there is none."""
        return Fields(self._values.pop(name, None), f"{name} of {self.where}")

    def drop(self, *names: str) -> None:
        """Leave these unread on purpose."""
        for name in names:
            self._values.pop(name, None)

    @property
    def left(self) -> list[str]:
        """What nobody took."""
        return sorted(map(str, self._values))


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if abs(found) < 1e12 else None

"""Data files that a studio can copy and edit: ours by name, the user's by path; JSON text in UTF-8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import BadInput


def names_in(folder: Path) -> list[str]:
    """Names of the data files in a folder of ours."""
    return sorted(path.stem for path in folder.glob("*.json"))


def read_table(where: str, folder: Path, what: str) -> Any:
    """The content of our file ``where`` in ``folder``, or of the user's file at that path.

    ``what`` names the kind of file in messages. Raises BadInput: no such file, not text, not JSON.
    """
    path = folder / f"{where}.json" if where in names_in(folder) else Path(where).expanduser()
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"The {what} {path} is not a text file in UTF-8. Save it as UTF-8 and try again.") from error
    except json.JSONDecodeError as error:
        raise BadInput(
            f"The {what} {path} is damaged in line {error.lineno}, column {error.colno}: {error.msg}. JSON needs "
            "double quotes around words, commas between entries and none after the last."
        ) from error
    except OSError as error:
        raise BadInput(
            f"There is no {what} '{where}'. Ours are: {', '.join(names_in(folder))}. Or give the path of your own file."
        ) from error

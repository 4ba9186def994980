"""Files of settings that were made for other trainers: SPM, LECO and Concept Sliders (YAML), ACE's command lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from . import ace, leco
from .configuration import Configuration
from .files import content_of

__all__ = ["Configuration", "read_configuration"]

_COMMAND = re.compile(r"(^|\s)--prompt[\s=]")


def read_configuration(path: str | Path, attributes: Sequence[str] = ()) -> Configuration:
    """What a file of settings asks for; it may be a configuration with its list of prompts, or such a list alone.

    ``attributes``: words that Concept Sliders' trainer is given beside the file, each put before every text in turn.
    Raises BadInput: no such file, not readable as text or YAML, a value of the wrong kind, a list of prompts missing.
    What has no counterpart here is no error; it is said in ``notes``.
    """
    where = Path(path).expanduser()
    text = content_of(where)
    if _COMMAND.search(text):
        return ace.read(where, text)
    return leco.read(where, text, attributes)

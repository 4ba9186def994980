"""Records of a benchmark that may be interrupted, kept with the setting they belong to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from erasure_core.atomic import write_bytes


def read(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured so far; nothing if there is no file, or it belongs to another setting."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(stored.get("records", {})) if stored.get("setting") == setting else {}


def write(path: Path, setting: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """All of it, whole or not at all."""
    content = json.dumps({"setting": setting, "records": records}, indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, f"{content}\n".encode())

"""Writing files so that a crash at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import CannotWrite


def write_whole(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path``, making its folder; raises :class:`CannotWrite`, leaving what was there before."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise CannotWrite(
            f"Could not write {path.name}: {error.strerror or error}. "
            "Check that the folder exists, may be written to and has room."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path

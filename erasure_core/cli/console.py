"""What the commands say: results on stdout, complaints and progress on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


def say(text: str = "") -> None:
    """A line of the command's result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """A line about something that is not as wished."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Progress:
    """A progress bar that is told ``(done, total, what)`` and may be told another total at any time.

    Use it in a ``with`` block; without tqdm installed it stays silent.
    """

    def __init__(self, unit: str = "step") -> None:
        self._unit = unit
        self._bar: Any = None
        self._what = ""

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """``done`` of ``total`` units are finished; ``what`` is being worked on."""
        if self._bar is None:
            self._bar = _bar(total, self._unit)
        if self._bar is None:
            return
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if what and what != self._what:
            self._what = what
            self._bar.set_description(what)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(total: int, unit: str) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit=f" {unit}s", dynamic_ncols=True, leave=False)

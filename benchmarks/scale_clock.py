"""Processor time by stage and peak memory of a piece of work that runs in a process of its own."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stages:
    """Processor time of named stages; time spent in an inner stage does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._last = time.process_time()

    @contextmanager
    def stage(self, name: str):
        """Everything inside counts as ``name``."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now

    def wrap(self, names: Mapping[Callable[..., Any], str]) -> None:
        """Time these functions wherever a loaded module of the core refers to them."""
        timed = {function: self._timed(function, stage) for function, stage in names.items()}
        for name, module in list(sys.modules.items()):
            if name.startswith("erasure_core"):
                for attribute, value in list(vars(module).items()):
                    if callable(value) and getattr(value, "__hash__", None) and value in timed:
                        setattr(module, attribute, timed[value])

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return function(*args, **kwargs)

        return timed


class Peak:
    """Memory above what the process holds when this is made, at its highest, in MB."""

    def __init__(self) -> None:
        _RESET.write_text("5")  # the kernel's mark of the highest begins anew
        self._base = _megabytes("VmRSS")

    def megabytes(self) -> int:
        """So far."""
        return max(0, round(_megabytes("VmHWM") - self._base))


def _megabytes(name: str) -> float:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) / 1024

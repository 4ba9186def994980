"""One JSON record per judged picture, appended as the work goes on, so that no interruption loses anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CannotWrite
from .detectors import Verdict

FILE_NAME = "records.jsonl"


@dataclass(frozen=True)
class Record:
    """A verdict with all that led to it.

    ``model`` 0 is the model alone, 1 with the membrane; ``picture`` is a path relative to the record file; ``key`` is
    the content hash of the picture, ``settings`` that of the sampler, ``detector`` the judge's fingerprint.
    """

    key: str
    group: str
    prompt: str
    seed: int
    model: int
    expect: Mapping[str, str]
    settings: str
    detector: str
    picture: str
    verdict: Verdict

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What makes a record unique: picture, group, side, judge."""
        return self.key, self.group, self.model, self.detector

    def to_json(self) -> str:
        """One line of JSON with sorted keys."""
        content = {
            "key": self.key,
            "group": self.group,
            "prompt": self.prompt,
            "seed": self.seed,
            "model": self.model,
            "expect": dict(self.expect),
            "settings": self.settings,
            "detector": self.detector,
            "picture": self.picture,
            "labels": dict(self.verdict.labels),
            "confidence": dict(self.verdict.confidence),
            "undecided": self.verdict.undecided,
        }
        return json.dumps(content, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """The record of a parsed line; raises KeyError or TypeError for a line that is none."""
        verdict = Verdict(content["labels"], content["confidence"], content["undecided"])
        names = ("key", "group", "prompt", "seed", "model", "expect", "settings", "detector", "picture")
        return cls(**{name: content[name] for name in names}, verdict=verdict)


class RecordFile:
    """The records of a bench folder, read once and appended to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._records: dict[tuple[str, str, int, str], Record] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        for record in self._read():
            self._remember(record)

    def find(self, key: str, group: str, model: int, detector: str) -> Record | None:
        """The record of a picture in a group, if it was made."""
        return self._records.get((key, group, model, detector))

    def verdict(self, key: str, detector: str) -> Verdict | None:
        """What the detector said about a picture, whichever group asked."""
        return self._verdicts.get((key, detector))

    def append(self, records: Iterable[Record]) -> None:
        """Add records and wait until they are on disk; raises :class:`CannotWrite`."""
        fresh = [record for record in records if record.identity not in self._records]
        if not fresh:
            return
        lines = "".join(record.to_json() + "\n" for record in fresh).encode()
        try:
            with self.path.open("ab") as stream:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise CannotWrite(
                f"Could not add to {self.path.name}: {error.strerror or error}. Check that the disk has room."
            ) from error
        for record in fresh:
            self._remember(record)

    def _remember(self, record: Record) -> None:
        self._records[record.identity] = record
        self._verdicts[record.key, record.detector] = record.verdict

    def _read(self) -> Iterable[Record]:
        """All whole records; what a crash tore off at the end is cut away, so that new lines start clean."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        yield from filter(None, map(_parse, whole.splitlines()))


def _parse(line: bytes) -> Record | None:
    """The record, or None for a damaged line: its picture is judged again."""
    try:
        return Record.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None

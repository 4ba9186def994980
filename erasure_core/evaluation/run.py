"""One run of the bench: which picture each case needs, drawing what is missing, reading what was not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, stack

from ..errors import CannotWrite
from ..models import Model
from .cache import BASE, PictureCache, Sampler, Shot
from .detectors import Detector, Verdict, judge
from .drawing import Drawer
from .fingerprints import membranes_hash
from .groups import Case, PromptGroup
from .records import Record, RecordFile
from .stability import Moves, moves
from .tally import Pair

if TYPE_CHECKING:
    from ..guidance import GuidanceTerm
    from ..membranes import Membrane

Progress = Callable[[int, int, str], None]
Place = tuple[str, str, int, int]
SIDES = ("without membrane", "with membrane")


class Run:
    """One run: which picture each case needs, and what was read on it."""

    def __init__(
        self,
        model: Model,
        membranes: tuple[Membrane, ...],
        groups: Sequence[PromptGroup],
        detector: Detector,
        folder: Path,
        sampler: Sampler,
        way: tuple[str, str],
        progress: Progress | None,
        guidance: tuple[GuidanceTerm, ...] = (),
    ) -> None:
        _make_folder(folder)
        self.model, self.membranes, self.groups, self.detector = model, membranes, groups, detector
        self.folder, self.sampler, self.way, self.progress = folder, sampler, way, progress
        self.judge_name = detector.fingerprint  # read once: a detector may hash its weights each time
        self.pictures = PictureCache(folder / "pictures")
        self.records = RecordFile(folder)
        self.checkpoint = model.fingerprint
        self.guidance = guidance
        self.membrane = membranes_hash(self.membranes, *way, guidance)
        self.shots = self._plan()
        self._done = 0

    def run(self, drawer: Drawer) -> dict[str, list[Pair]]:
        """Draw and judge everything, the model alone first; judged pairs by group."""
        self._side(drawer, 0, None)
        self._side(drawer, 1, self._applied)
        moved = moves(self.groups, self._load)
        return {group.name: [self._pair(group, case, moved) for case in group.cases] for group in self.groups}

    def _plan(self) -> dict[Place, Shot]:
        model = f"{self.checkpoint}/{self.model.dtype}"
        text = f"{self.model.text_fingerprint}/{self.model.clip_skip}"
        shots: dict[Place, Shot] = {}
        for group in self.groups:
            for case in group.cases:
                for side in (0,) if group.base_only else (0, 1):
                    who = self.membrane if side else BASE
                    place = _place(case, side)
                    shots[place] = Shot(model, text, who, case.prompt, case.seed, self.sampler)
        return shots

    def _applied(self) -> AbstractContextManager[object]:
        from ..membranes import apply

        return apply(self.model, self.membranes, act_on=self.way[0], rows=self.way[1])

    def _side(self, drawer: Drawer, side: int, patched: Callable[[], AbstractContextManager[object]] | None) -> None:
        by_shot: dict[Shot, list[tuple[Case, int]]] = {}
        for group in self.groups:
            for case in group.cases:
                shot = self.shots.get(_place(case, side))
                if shot is not None:
                    by_shot.setdefault(shot, []).append((case, side))
        if self.membrane == BASE:
            patched = None
        # Pictures of the model alone come in batches of their own: the others then meet the same company on both
        # sides, and a membrane that does nothing gives the same bits.
        alone = {s for s, uses in by_shot.items() if not any(_place(case, 1) in self.shots for case, _ in uses)}
        for shots in ([shot for shot in by_shot if shot not in alone], list(alone)):
            for part in drawer.batches(shots, patched, self.guidance if side else ()):
                self._judge(part, by_shot)
                self._done += len(part)
                if self.progress is not None:
                    self.progress(self._done, self._total(), SIDES[side])

    def _total(self) -> int:
        """Pictures of both sides; the same picture wanted by several cases counts once."""
        return len({(shot, place[3]) for place, shot in self.shots.items()})

    def _judge(self, shots: Sequence[Shot], by_shot: dict[Shot, list[tuple[Case, int]]]) -> None:
        """Read what was not read yet and append the records of the batch."""
        verdicts = {shot: self.records.verdict(shot.key, self.judge_name) for shot in shots}
        unread = [shot for shot in shots if verdicts[shot] is None]
        if unread:
            verdicts.update(zip(unread, self._read(unread), strict=True))
        fresh = []
        for shot, verdict in verdicts.items():
            for case, side in by_shot[shot]:
                assert verdict is not None
                fresh.append(self._record(shot, case, side, verdict))
        self.records.append(fresh)

    def _read(self, shots: Sequence[Shot]) -> list[Verdict]:
        loaded = [self.pictures.load(shot) for shot in shots]
        seen = [picture for picture in loaded if picture is not None]
        found = iter(judge(self.detector, stack(seen).float() / 255) if seen else [])
        return [Verdict(undecided="unreadable picture") if picture is None else next(found) for picture in loaded]

    def _record(self, shot: Shot, case: Case, side: int, verdict: Verdict) -> Record:
        picture = self.pictures.path(shot).relative_to(self.folder).as_posix()
        return Record(
            shot.key, case.group, case.prompt, case.seed, side, dict(case.expect), self.sampler.hash,
            self.judge_name, picture, verdict,
        )  # fmt: skip

    def _load(self, case: Case, side: int) -> Tensor | None:
        return self.pictures.load(self.shots[_place(case, side)])

    def _pair(self, group: PromptGroup, case: Case, moved: Moves) -> Pair:
        before = self._verdict(case, 0)
        after = None if group.base_only else self._verdict(case, 1)
        step, spread = moved.get((case.group, case.prompt, case.seed), (None, ()))
        return Pair(case, before, after, step, spread)

    def _verdict(self, case: Case, side: int) -> Verdict:
        shot = self.shots[_place(case, side)]
        record = self.records.find(shot.key, case.group, side, self.judge_name)
        assert record is not None
        return record.verdict


def _place(case: Case, side: int) -> Place:
    return case.group, case.prompt, case.seed, side


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"Could not make the folder '{folder.name}': {error.strerror or error}. "
            "Choose another place for the results."
        ) from error

"""The bench: draw prompt groups without and with a membrane, judge every picture, count, score.

Everything is kept in one folder, pictures by what made them and one record per judged picture, so a run that was
stopped goes on where it was, and a second membrane needs no new pictures of the model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput, Interrupted
from ..models import Model
from .axes import require_groups, score
from .cache import Sampler
from .detectors import Detector
from .drawing import Drawer, ShouldStop
from .groups import PromptGroup
from .result import BenchResult
from .run import Progress, Run
from .scores import PROFILES, UNDECIDED_SHARE
from .tally import Pair, clusters_of

if TYPE_CHECKING:
    from ..guidance import GuidanceTerm
    from ..membranes import Membrane


def bench(
    model: Model,
    membranes: Membrane | Sequence[Membrane],
    groups: Sequence[PromptGroup],
    detector: Detector,
    folder: Path | str,
    steps: int = 20,
    cfg: float = 5.0,
    batch: int = 32,
    negative: str = "",
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    *,
    size: tuple[int, int] | None = None,
    act_on: str = "auto",
    rows: str = "cond",
    weights: str = "neutral",
    guidance: Sequence[GuidanceTerm] = (),
) -> BenchResult:
    """Measure what ``membranes`` and ``guidance`` do to ``model`` on prompts of ``groups``, as read by ``detector``.

    ``steps``, ``cfg``, ``negative`` and ``size`` (height, width; None = the model's own) are those of every picture;
    ``batch`` pictures are drawn at once. ``act_on`` and ``rows`` go to :func:`erasure_core.membranes.apply`;
    ``weights`` is a profile of :data:`.scores.PROFILES`. ``progress(done, pictures, what)`` is called after each batch;
    ``should_stop()`` is asked between sampling steps. Neither membranes nor guidance measures the model against
    itself.

    Raises :class:`Interrupted` when stopped (by ``should_stop`` or from the keyboard), with all finished work kept,
    :class:`BadInput` for prompt groups or settings that cannot be used, :class:`CannotWrite` for a full disk.
    """
    if steps < 1:
        raise BadInput(f"A picture needs at least one sampling step, not {steps}.")
    if weights not in PROFILES:
        raise BadInput(f"Unknown profile {weights!r}; use one of {', '.join(PROFILES)}.")
    target = require_groups(groups)
    height, width = size or model.size
    sampler = Sampler(steps, float(cfg), negative, (height, width), model.scheduler)
    chosen = tuple(membranes) if isinstance(membranes, Sequence) else (membranes,)
    work = Run(model, chosen, groups, detector, Path(folder), sampler, (act_on, rows), progress, tuple(guidance))
    try:
        pairs = work.run(Drawer(model, work.pictures, sampler, batch, should_stop))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "Stopped from the keyboard. Everything drawn so far is kept; run the same again to go on."
        ) from stop
    clusters = {group.name: clusters_of(group, pairs[group.name], target) for group in groups}
    scores = score(groups, clusters, weights, _too_many_undecided(pairs))
    return BenchResult(
        target, tuple(groups), pairs, scores, weights, work.checkpoint, work.membrane, sampler, work.judge_name,
        work.pictures, work.shots,
    )  # fmt: skip


def _too_many_undecided(pairs: dict[str, list[Pair]]) -> str:
    verdicts = [v for found in pairs.values() for pair in found for v in (pair.before, pair.after) if v is not None]
    undecided = sum(bool(verdict.undecided) for verdict in verdicts)
    if undecided <= UNDECIDED_SHARE * len(verdicts):
        return ""
    return f"{undecided} of {len(verdicts)} pictures could not be judged; at most 5 % may be"

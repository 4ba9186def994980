"""Training in the graph: what to train, what is shown meanwhile, and what is kept of it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..erasure_core.concepts import ConceptSet
from ..erasure_core.erasure import Erasure
from ..erasure_core.errors import BadInput, MembraneError
from ..erasure_core.membranes import Membrane, apply
from ..erasure_core.options import parse_options, read_options, refuse_files
from ..erasure_core.training import Callbacks, Report
from ..erasure_core.training.adapters import Adapter
from ..erasure_core.training.engine import Engine
from ..erasure_core.training.grid import Grid
from ..erasure_core.training.loop import Trainer
from ..erasure_core.training.methods import method_named
from ..erasure_core.training.preview import preview_prompts, previewed, sketched
from ..erasure_core.training.run import Job
from ..erasure_core.training.texts import Library, stack
from . import host
from .learning_curve import learning_curve
from .model import HostModel
from .pictures import row_of, to_pil
from .trained_files import state_of_training, write_trained

_OWN = ("steps", "rank", "seed")  # inputs of the node
_KEPT_EVERY = 50  # steps between two writings of the state
_SKETCHED = 20  # steps of a preview where there is no training's own grid
_BETWEEN = 0.25  # seconds between two lines of text on the node


@dataclass(frozen=True)
class Wish:
    """What the node was asked for. ``steps`` and ``rank``: 0 for the method's own; ``every``: 0 for no previews."""

    concepts: ConceptSet
    method: str
    preset: str
    steps: int
    rank: int
    seed: int
    name: str
    options: str
    every: int


@dataclass(frozen=True)
class Trained:
    """A finished training. ``pictures`` [n, H, W, 3]: before, on the way, after; ``curve`` [1, H, W, 3]."""

    erasure: Erasure
    file: str
    pictures: Tensor
    curve: Tensor
    resumed: int

    def __str__(self) -> str:
        numbers, recipe = self.erasure.diagnostics["training"], self.erasure.recipe
        said = f"trained with {recipe['method']}: {recipe['steps']} steps"
        if self.resumed:
            said += f" (went on from step {self.resumed})"
        if numbers.get("loss_first") is not None:
            said += f" in {numbers['seconds']:.0f} s, loss {numbers['loss_first']:.3g} at first, "
            said += f"{numbers['loss_last']:.3g} at last"
        return f"{said}\nfile: {self.file}"


def check(method: str, options: str, steps: int = 0, rank: int = 0, seed: int = 0) -> dict[str, Any]:
    """The method's settings by name; raises BadInput for what it has not, or does not take."""
    given: dict[str, Any] = dict(parse_options(options))
    for name in _OWN:
        if name in given:
            raise BadInput(f"'{name}' is an input of its own. Set it there and take it out of the options.")
    settings = method_named(method).Settings
    refuse_files(settings, given)
    chosen = {**given, "seed": seed, **({"steps": steps} if steps else {}), **({"rank": rank} if rank else {})}
    read_options(settings, chosen, method)
    return chosen


def train(model: Any, clip: Any, wish: Wish, vae: Any, node_id: str | None) -> Trained:
    """Train, or go on with the same training; what was learned is written even where it is stopped half-way."""
    target = HostModel(model, clip, node_id)
    target.encode(["", *preview_prompts(wish.concepts)])  # loads the text encoder as other nodes do
    with torch.inference_mode(False):  # in which nothing could be learned
        settings = check(wish.method, wish.options, wish.steps, wish.rank, wish.seed)
        job = Job(target, wish.concepts, wish.method, wish.preset, (), None, settings)
        state = state_of_training(wish.name, job.configuration)  # refuses a wrong name before the work
        if hasattr(job.module, "run"):
            return _at_once(job, model, wish.name, vae, node_id)
        with job.opened() as trainer:
            watch = Watch(job, trainer, model, vae, node_id)
            watch.look()
            try:
                erasure = job.run(trainer, watch.callbacks(wish.every), state, _KEPT_EVERY)
                watch.look()
            except BaseException:
                watch.keep(wish.name)
                raise
    file = write_trained(erasure, wish.name)
    state.unlink(missing_ok=True)
    return Trained(erasure, file, torch.cat(watch.pictures), watch.curve(), watch.resumed)


def _at_once(job: Job, model: Any, name: str, vae: Any, node_id: str | None) -> Trained:
    """A method that has no steps to go on from."""
    tried: list[Report] = []
    bar: list[Any] = []

    def report(made: Report) -> None:
        tried.append(made)
        bar[:] = bar or [host.progress(made.steps, node_id)]
        bar[0](made.step)
        host.say(f"step {made.step}/{made.steps}", node_id)
        host.stop_if_asked()

    erasure = job.module.run(job, Callbacks(report))
    changed = apply(job.model, Membrane(erasure)).patch
    pictures = [_sketch(job, target, vae, model) for target in (job.model, HostModel(changed.model, changed.clip))]
    losses = [(made.erasing, made.keeping) for made in tried]
    curve = learning_curve(_title(job), losses, max(1, len(losses)))
    return Trained(erasure, write_trained(erasure, name), torch.cat(pictures), curve, 0)


def _sketch(job: Job, target: Any, vae: Any, model: Any) -> Tensor:
    """The concept and what must stay, as a model draws them."""
    asked = preview_prompts(job.concepts)
    with target.open_denoiser() as network:
        grid = Grid.of(target.sigmas, _SKETCHED, target.prediction)
        texts = Library(target, asked)
        rows = stack([texts[prompt] for prompt in (*asked, *([""] * len(asked)))])
        latents = sketched(Engine(network, Adapter({}), grid), rows, target.latent_shape(target.size), 0)
    return row_of(model, latents, vae)


def _title(job: Job) -> str:
    return f"{job.module.NAME}: {', '.join(concept.target for concept in job.concepts.concepts)}"


class Watch:
    """What the node shows while it trains, and what is kept where it is stopped."""

    def __init__(self, job: Job, trainer: Trainer, model: Any, vae: Any, node_id: str | None) -> None:
        self._job, self._trainer, self._model, self._vae, self._node_id = job, trainer, model, vae, node_id
        self._bar = host.progress(job.settings.steps, node_id)
        self._begun = self._said = time.monotonic()
        self._first: int | None = None
        self._seen = -1
        self.pictures: list[Tensor] = []

    @property
    def resumed(self) -> int:
        """The step that an earlier run had come to."""
        return self._trainer.step if self._first is None else self._first - 1

    def callbacks(self, every: int) -> Callbacks:
        """What the training calls; ``every``: steps between two previews, 0 for none."""
        return Callbacks(self._report, self._preview if every else None, max(1, every))

    def look(self) -> None:
        """Draw the concept and its neighbour as the model is now, unless that was done in this very step."""
        if self._trainer.step != self._seen:
            self._preview(self._trainer.step, previewed(self._job.model, self._trainer, self._job.concepts))

    def curve(self) -> Tensor:
        """The losses so far."""
        return learning_curve(_title(self._job), self._trainer.losses, self._job.settings.steps)

    def keep(self, name: str) -> None:
        """Write what was learned until something stopped the training, which is then raised further."""
        if not self._trainer.step:
            return
        with suppress(MembraneError):
            erasure = self._job.erasure(self._trainer, time.monotonic() - self._begun)
            file = write_trained(erasure, name)
            done = f"stopped at step {self._trainer.step}/{self._job.settings.steps}"
            host.say(f"{done}; what was learned is in {file}. Queue again to go on.", self._node_id)

    def _report(self, made: Report) -> None:
        self._first = self._first or made.step
        self._bar(made.step)
        now = time.monotonic()
        if now - self._said >= _BETWEEN or made.step == made.steps:
            host.say(str(made), self._node_id)
            self._said = now
        host.stop_if_asked()

    def _preview(self, step: int, latents: Tensor) -> None:
        self._seen = step
        self.pictures.append(row_of(self._model, latents, self._vae))
        self._bar(step, to_pil(self.pictures[-1]))

"""From concepts to a trained erasure: everything around the loop."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..calibration import fitted
from ..closed_form.build import concept_entries
from ..concepts import Concept, ConceptSet, concept_set
from ..erasure import Erasure, WeightDelta
from ..errors import BadInput, WrongFamily
from ..options import read_options
from .adapters import KAIMING, Adapter, low_rank, whole
from .draw import generator
from .engine import Engine
from .examples import Bank, Example, bank_prompts, examples_of
from .grid import Grid
from .loop import Enough, Trainer, has_settled
from .methods import method_named
from .preview import previewed
from .progress import Callbacks, Clock, Report
from .scopes import layers_in
from .settings import PRESETS
from .state import restore, store
from .texts import Library
from .trainable import TrainableModel

LARGE = 100e6  # parameters of a denoiser from which memory is saved at the cost of time


def train(
    model: TrainableModel,
    concepts: str | Concept | ConceptSet | Iterable[str | Concept],
    method: str = "spm",
    callbacks: Callbacks | None = None,
    preserve: Iterable[str] = (),
    state: str | Path | None = None,
    preset: str = "balanced",
    examples: Sequence[Example] | None = None,
    keep_every: int = 50,
    **options: Any,
) -> Erasure:
    """Train an erasure; the model's own weights are never changed.

    ``concepts`` and ``preserve``: as for :func:`~erasure_core.erase`. ``state``: a file in which the training is kept,
    and from which it goes on if it is there; then interrupting loses nothing, and the result is bitwise that of a
    training that was not interrupted. It is written every ``keep_every`` updates and whenever training stops.
    ``preset``: fast, balanced or thorough, a factor for the method's usual number of steps; ``steps`` says it outright.
    ``examples``: what to train on, in place of the concepts in sentences. ``options``: the method's settings.

    Raises BadInput for unusable concepts or settings, IllConditioned where the loss is no number any more, and lets
    through whatever ``callbacks`` raise; before that the state is written. See :func:`learned` for what it holds.
    """
    job = Job(model, concept_set(concepts), method, preset, preserve, examples, options)
    if hasattr(job.module, "run"):
        done: Erasure = job.module.run(job, callbacks or Callbacks())
        return done
    with job.opened() as trainer:
        return job.run(trainer, callbacks or Callbacks(), None if state is None else Path(state), keep_every)


def learned(
    model: TrainableModel,
    concepts: str | Concept | ConceptSet | Iterable[str | Concept],
    state: str | Path,
    method: str = "spm",
    preserve: Iterable[str] = (),
    preset: str = "balanced",
    examples: Sequence[Example] | None = None,
    **options: Any,
) -> Erasure:
    """The erasure as far as an interrupted training got, from its ``state``; the other arguments as they were then.

    Raises BadInput if there is no such file, or it belongs to another training.
    """
    job = Job(model, concept_set(concepts), method, preset, preserve, examples, options)
    if hasattr(job.module, "run"):
        raise BadInput(f"'{method}' is done in one go and leaves no state. Train again; it takes seconds.")
    with job.opened() as trainer:
        if not restore(Path(state), trainer, job.identity):
            raise BadInput(f"There is no state of a training at {state}. Train first.")
        return job.erasure(trainer, 0.0)


class Job:
    """One training: its settings checked, its texts chosen. Nothing is computed before :meth:`opened`.

    ``configuration``: a short hash, equal for runs that are the same training.
    """

    def __init__(
        self,
        model: TrainableModel,
        concepts: ConceptSet,
        method: str,
        preset: str,
        preserve: Iterable[str],
        examples: Sequence[Example] | None,
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(model, TrainableModel) or model.family not in ("sd1", "sd2", "sdxl"):
            raise WrongFamily(
                f"Erasures are trained on Stable Diffusion 1, 2 and XL, not on {getattr(model, 'family', 'this')}. "
                "For Flux compute one with Erase."
            )
        self.model, self.module = model, method_named(method)
        extra = (preserve,) if isinstance(preserve, str) else tuple(preserve)
        self.concepts = ConceptSet(concepts.concepts, tuple(dict.fromkeys([*concepts.preserve, *extra])))
        self.settings: Any = _settings(self.module, preset, options)
        self.examples = list(examples) if examples is not None else self._examples()
        self.identity = self._identity()
        self.configuration = _digest(self.identity)

    def _examples(self) -> list[Example]:
        own: list[Example] = getattr(self.module, "examples", examples_of)(self.concepts, self.settings)
        if not hasattr(self.module, "roles"):
            return own
        roles = self.module.roles(self.settings, self.concepts)
        return [replace(example, texts={**roles, **example.texts}) for example in own]

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for two runs to be the same training."""
        return {
            "method": self.module.NAME,
            "settings": asdict(self.settings),
            "examples": [[dict(example.texts), example.weight, example.eta, example.kind] for example in self.examples],
            "preserved": list(self.concepts.all_preserved),
            "model": self.model.identity,
        }

    @contextmanager
    def opened(self) -> Iterator[Trainer]:
        """The trainer, with the model open and the adapter on it; afterwards the model is as it was."""
        if hasattr(self.module, "opened"):
            with self.module.opened(self) as own:
                yield own
            return
        model, settings = self.model, self.settings
        shapes = model.shapes()
        layers = layers_in(shapes, settings.scope)
        prompts = bank_prompts(self.concepts) if settings.word_anchors else []
        library = self.library(prompts)
        adapter = self.adapter(layers)
        with ExitStack() as stack:
            network = stack.enter_context(model.open_denoiser(self.saves_memory))
            adapter.to(network.device)
            stack.enter_context(adapter.attached({layer: network.place(layer) for layer in layers}))
            engine = Engine(network, adapter, self.grid, settings.micro)
            trainer = Trainer(
                engine, self.module, settings, self.examples, library, Bank.of(library, prompts), self.latent_shape
            )
            if hasattr(self.module, "watch"):
                trainer.watcher = stack.enter_context(self.module.watch(self, network, library))
            if hasattr(self.module, "masks"):
                trainer.masks = self.module.masks(settings, trainer)
            yield trainer

    def library(self, prompts: Sequence[str]) -> Library:
        """Every text of the examples, and ``prompts``."""
        return Library(self.model, [*(text for e in self.examples for text in e.texts.values()), *prompts])

    def adapter(self, layers: Sequence[str]) -> Adapter:
        """What is trained on ``layers``."""
        settings, shapes = self.settings, self.model.shapes()
        if settings.form == "weights":
            return whole(shapes, layers)
        slope = KAIMING.get(self.module.NAME, KAIMING["lora"])
        ordered = sorted(layers)  # pipelines and hosts list them differently; the start is to be the same
        return low_rank(shapes, ordered, settings.rank, settings.alpha, slope, generator(settings.seed, 0, "start"))

    @property
    def grid(self) -> Grid:
        """The timesteps of trajectories."""
        settings = self.settings
        return Grid.of(self.model.sigmas, settings.grid, self.model.prediction, settings.compat_timestep)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of the latents trained on."""
        size = self.settings.size
        return self.model.latent_shape((size, size) if size else self.model.size)

    @property
    def saves_memory(self) -> bool:
        """Whether activations are computed twice instead of being kept."""
        if self.settings.checkpointing is not None:
            return self.settings.checkpointing
        sizes = [math.prod(shape) for name, shape in self.model.shapes().items() if name.startswith("unet.")]
        return sum(sizes) > LARGE

    def run(self, trainer: Trainer, callbacks: Callbacks, state: Path | None, keep_every: int) -> Erasure:
        """Train to the end, or until the loss does not fall any more."""
        if state is not None:
            restore(state, trainer, self.identity)
        begun, clock, total = time.monotonic(), Clock(), self.settings.steps
        written = trainer.step
        try:
            while trainer.step < total and not has_settled(trainer.totals, self.settings.plateau):
                try:
                    erasing, keeping = trainer.update()
                except Enough:
                    break
                if state is not None and trainer.step - written >= keep_every:
                    store(state, trainer, self.identity)
                    written = trainer.step
                if callbacks.report is not None:
                    left = clock.left(total - trainer.step)
                    callbacks.report(Report(trainer.step, total, erasing + keeping, erasing, keeping, left))
                if callbacks.preview is not None and trainer.step % callbacks.every == 0:
                    callbacks.preview(trainer.step, previewed(self.model, trainer, self.concepts, callbacks.prompts))
        finally:
            if state is not None and trainer.step > written:
                store(state, trainer, self.identity)
        return self.erasure(trainer, time.monotonic() - begun)

    def erasure(self, trainer: Trainer, seconds: float) -> Erasure:
        """What the adapter holds now, with its gate calibrated."""
        losses = trainer.totals
        window = max(1, len(losses) // 10)
        made = self.made(
            trainer.engine.adapter.deltas(trainer.result),
            {"scope": self.settings.scope, "steps": trainer.step},
            {
                "loss_first": sum(losses[:window]) / window if losses else None,
                "loss_last": sum(losses[-window:]) / window if losses else None,
                "rows_forward": trainer.engine.forwards,
                "rows_backward": trainer.engine.backwards,
                "seconds": round(seconds, 1),
                "date": time.strftime("%Y-%m-%d"),
            },
        )
        if hasattr(self.module, "finished"):
            made = self.module.finished(self, made)
        return fitted(made, self.model)

    def made(
        self, deltas: Mapping[str, WeightDelta], recipe: Mapping[str, Any], measured: Mapping[str, Any]
    ) -> Erasure:
        """Changes of weights with all that is known about them; ``measured``: for the diagnostics."""
        settings, concepts = self.settings, sorted(self.concepts, key=lambda c: (c.target, c.kind))
        usual = asdict(type(settings)())
        return Erasure(
            weight_deltas=dict(deltas),
            recipe={
                "method": self.module.NAME,
                "trained": True,
                "concepts": concept_entries(concepts, [concept.anchor for concept in concepts]),
                "preserve": list(self.concepts.all_preserved),
                "options": {name: value for name, value in asdict(settings).items() if value != usual[name]},
                "seeds": [settings.seed],
                "configuration": self.configuration,
                **recipe,
            },
            base={
                "family": self.model.family,
                "prediction": self.model.prediction,
                "clip_skip": self.model.clip_skip,
                "weights": self.model.identity,
                "widths": dict(self.model.spaces),
            },
            gate={
                "phrases": [phrase for concept in concepts for phrase in concept.phrases],
                "neighbours": list(self.concepts.all_preserved),
                "rows": getattr(self.module, "ROWS", "full"),
            },
            diagnostics={"training": dict(measured)},
        )


def _settings(module: ModuleType, preset: str, options: Mapping[str, Any]) -> Any:
    if preset not in PRESETS:
        raise BadInput(f"There is no preset '{preset}'. Choose one of {', '.join(PRESETS)}.")
    given = read_options(module.Settings, options, module.NAME)
    if "steps" in options or not hasattr(given, "steps"):
        return given
    return replace(given, steps=max(1, round(given.steps * PRESETS[preset])))


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

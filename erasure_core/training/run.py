"""From concepts to a trained erasure: everything around the loop."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..calibration import fitted
from ..closed_form.build import concept_entries
from ..concepts import Concept, ConceptSet, concept_set
from ..erasure import Erasure
from ..errors import BadInput, WrongFamily
from ..options import read_options
from .adapters import KAIMING, Adapter, low_rank, whole
from .draw import generator
from .engine import Engine
from .examples import Bank, Example, bank_prompts, examples_of
from .grid import Grid
from .loop import Trainer, has_settled
from .methods import method_named
from .preview import previewed
from .progress import Callbacks, Clock, Report
from .scopes import layers_in
from .settings import PRESETS, Training
from .state import restore, store
from .texts import Library
from .trainable import TrainableModel

LARGE = 100e6  # parameters of a denoiser from which memory is saved at the cost of time
KEPT_EVERY = 100  # updates between two writings of the state


def train(
    model: TrainableModel,
    concepts: str | Concept | ConceptSet | Iterable[str | Concept],
    method: str = "spm",
    callbacks: Callbacks | None = None,
    preserve: Iterable[str] = (),
    state: str | Path | None = None,
    preset: str = "balanced",
    examples: Sequence[Example] | None = None,
    **options: Any,
) -> Erasure:
    """Train an erasure; the model's own weights are never changed.

    ``concepts`` and ``preserve``: as for :func:`~erasure_core.erase`. ``state``: a file in which the training is kept,
    and from which it goes on if it is there; then interrupting loses nothing, and the result is bitwise that of a
    training that was not interrupted. ``preset``: fast, balanced or thorough, a factor for the method's usual number of
    steps; ``steps`` says it outright. ``examples``: what to train on, in place of the concepts in sentences.
    ``options``: the method's settings.

    Raises BadInput for unusable concepts or settings, IllConditioned where the loss is no number any more, and lets
    through whatever ``callbacks`` raise; before that the state is written. See :func:`learned` for what it holds.
    """
    job = Job(model, concept_set(concepts), method, preset, preserve, examples, options)
    with job.opened() as trainer:
        return job.run(trainer, callbacks or Callbacks(), None if state is None else Path(state))


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
    with job.opened() as trainer:
        if not restore(Path(state), trainer, job.identity):
            raise BadInput(f"There is no state of a training at {state}. Train first.")
        return job.erasure(trainer, 0.0)


class Job:
    """One training: its settings checked, its texts chosen. Nothing is computed before :meth:`opened`."""

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
        self.settings = _settings(self.module, preset, options)
        self.examples = list(examples) if examples is not None else self._examples()
        self.identity = self._identity()

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
            "examples": [[dict(example.texts), example.weight] for example in self.examples],
            "preserved": list(self.concepts.all_preserved),
            "model": self.model.identity,
        }

    @contextmanager
    def opened(self) -> Iterator[Trainer]:
        """The trainer, with the model open and the adapter on it; afterwards the model is as it was."""
        model, settings = self.model, self.settings
        shapes = model.shapes()
        layers = layers_in(shapes, settings.scope)
        prompts = bank_prompts(self.concepts) if settings.word_anchors else []
        library = Library(model, [*(text for e in self.examples for text in e.texts.values()), *prompts])
        adapter = _adapter(self.module, settings, shapes, layers)
        size = (settings.size, settings.size) if settings.size else model.size
        grid = Grid.of(model.sigmas, settings.grid, model.prediction, settings.compat_timestep)
        with ExitStack() as stack:
            network = stack.enter_context(model.open_denoiser(_saves_memory(settings, shapes)))
            adapter.to(network.device)
            stack.enter_context(adapter.attached({layer: network.place(layer) for layer in layers}))
            engine = Engine(network, adapter, grid, settings.micro)
            bank = Bank.of(library, prompts)
            trainer = Trainer(engine, self.module, settings, self.examples, library, bank, model.latent_shape(size))
            if hasattr(self.module, "watch"):
                trainer.watcher = stack.enter_context(self.module.watch(network, layers, settings, library))
            yield trainer

    def run(self, trainer: Trainer, callbacks: Callbacks, state: Path | None) -> Erasure:
        """Train to the end, or until the loss does not fall any more."""
        if state is not None:
            restore(state, trainer, self.identity)
        begun, clock, total = time.monotonic(), Clock(), self.settings.steps
        written = trainer.step
        try:
            while trainer.step < total and not has_settled(trainer.totals, self.settings.plateau):
                erasing, keeping = trainer.update()
                if state is not None and trainer.step - written >= KEPT_EVERY:
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
        settings, concepts = self.settings, sorted(self.concepts, key=lambda c: (c.target, c.kind))
        usual = asdict(type(settings)())
        neutral = [concept.anchor for concept in concepts]
        losses = trainer.totals
        window = max(1, len(losses) // 10)
        made = Erasure(
            weight_deltas=trainer.engine.adapter.deltas(trainer.result),
            recipe={
                "method": self.module.NAME,
                "trained": True,
                "concepts": concept_entries(concepts, neutral),
                "preserve": list(self.concepts.all_preserved),
                "options": {name: value for name, value in asdict(settings).items() if value != usual[name]},
                "scope": settings.scope,
                "steps": trainer.step,
                "seeds": [settings.seed],
                "configuration": _digest(self.identity),
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
            diagnostics={
                "training": {
                    "loss_first": sum(losses[:window]) / window if losses else None,
                    "loss_last": sum(losses[-window:]) / window if losses else None,
                    "rows_forward": trainer.engine.forwards,
                    "rows_backward": trainer.engine.backwards,
                    "seconds": round(seconds, 1),
                    "date": time.strftime("%Y-%m-%d"),
                }
            },
        )
        return fitted(made, self.model)


def _settings(module: ModuleType, preset: str, options: Mapping[str, Any]) -> Training:
    if preset not in PRESETS:
        raise BadInput(f"There is no preset '{preset}'. Choose one of {', '.join(PRESETS)}.")
    given: Training = read_options(module.Settings, options, module.NAME)
    if "steps" in options:
        return given
    return replace(given, steps=max(1, round(given.steps * PRESETS[preset])))


def _adapter(module: ModuleType, settings: Training, shapes: Mapping[str, Any], layers: Sequence[str]) -> Adapter:
    if settings.form == "weights":
        return whole(shapes, layers)
    slope = KAIMING.get(module.NAME, KAIMING["lora"])
    return low_rank(shapes, layers, settings.rank, settings.alpha, slope, generator(settings.seed, 0, "start"))


def _saves_memory(settings: Training, shapes: Mapping[str, Any]) -> bool:
    if settings.checkpointing is not None:
        return settings.checkpointing
    sizes = [int(torch.Size(shape).numel()) for name, shape in shapes.items() if name.startswith("unet.")]
    return sum(sizes) > LARGE


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

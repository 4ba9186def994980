"""The whole recipe of the demo model: stages in order, each resumable, driven by one dataclass of settings.

Budgets: ``tiny`` (seconds, for the tests), ``smoke`` (under two minutes on one core, shows that everything runs),
``full`` (from nothing; about two hours on one core by the step rates measured, not yet run to its end), ``refine``
(goes on from a model and keeps its latents; about 20 minutes on a free core) and ``polish`` (the denoiser alone, once
more; about 10 minutes).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BadInput
from .architecture import export, load_parts, load_tokenizer, new_autoencoder, new_denoiser, new_text_encoder
from .captions import Grammar
from .dataset import CaptionTokens, Supply, cached_latents, pictures
from .loop import Plan
from .parallel import wait, workers
from .train_autoencoder import latent_scaling, train_autoencoder, train_decoder
from .train_denoiser import train_denoiser
from .train_detector import PLAN as DETECTOR_PLAN
from .train_detector import save_detector, train_detector
from .train_text_encoder import train_text_encoder

Report = Callable[[str, int, int, float], None]
"""Called with stage, steps done, steps in all and the loss."""

WIDE = Grammar(coloured_background=0.98, misspelt=0.20, implicit=0.08)
"""Captions with misspellings and implicit wording; coloured backgrounds almost only where they are named, so that
guidance does not tint backgrounds that nobody asked for."""
STYLED = (0.25, 0.25, 0.25, 0.25)

CROPS = Plan(steps=6000, lr=1.5e-3, warmup=60, every=200, seed=1)
WHOLE = Plan(steps=6000, lr=8e-4, warmup=60, every=200, seed=2)
DECODER = Plan(steps=1500, lr=4e-4, warmup=60, ema=0.995, every=100, seed=3)
TEXT = Plan(steps=1500, lr=2e-3, warmup=30, every=200, seed=4)
DENOISER = Plan(steps=6000, lr=1.2e-3, warmup=100, flat=0.3, ema=0.9985, every=200, seed=5)


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. A plan of None leaves its stage out, the model given at the start then keeps that part.

    ``images``: number of cached latents. ``*_batch``: pictures, captions or latents per step. ``keep``: weight of
    staying close to the text encoder given at the start. ``plain_empty``: empty captions on neutral backgrounds only.
    """

    seed: int = 1
    images: int = 20_000
    crops: Plan | None = CROPS
    crops_batch: int = 16
    whole: Plan | None = WHOLE
    whole_batch: int = 8
    decoder: Plan | None = DECODER
    text: Plan | None = TEXT
    text_batch: int = 96
    keep: float = 0.0
    denoiser: Plan | None = DENOISER
    denoiser_batch: int = 48
    detector: Plan | None = DETECTOR_PLAN
    detector_batch: int = 64
    grammar: Grammar = field(default_factory=lambda: WIDE)
    style_shares: tuple[float, ...] = STYLED
    plain_empty: bool = True

    @property
    def supply(self) -> Supply:
        """The scenes everything is trained on."""
        return Supply(self.seed, style_shares=self.style_shares)


SMOKE = Recipe(
    images=200,
    crops=Plan(steps=100, lr=3e-3, warmup=5, every=20, seed=1),
    crops_batch=8,
    whole=Plan(steps=60, lr=1e-3, warmup=2, every=10, seed=2),
    whole_batch=4,
    decoder=Plan(steps=80, lr=1.5e-3, warmup=2, ema=0.9, every=10, seed=3),
    text=Plan(steps=60, lr=2e-3, warmup=5, every=20, seed=4),
    text_batch=48,
    denoiser=Plan(steps=60, lr=1.2e-3, warmup=10, flat=0.3, ema=0.9, every=20, seed=5),
    denoiser_batch=16,
    detector=Plan(steps=30, lr=3e-3, warmup=5, clip=5.0, every=10, seed=7),
    detector_batch=32,
)

TINY = Recipe(
    images=24,
    crops=Plan(steps=24, lr=4e-3, warmup=2, every=8, seed=1),
    crops_batch=3,
    whole=Plan(steps=10, lr=3e-3, warmup=1, every=5, seed=2),
    whole_batch=2,
    text=Plan(steps=12, lr=4e-3, warmup=2, every=4, seed=4),
    text_batch=16,
    denoiser=Plan(steps=12, lr=2e-3, warmup=2, flat=0.3, ema=0.5, every=4, seed=5),
    denoiser_batch=6,
    decoder=Plan(steps=8, lr=2e-3, warmup=2, ema=0.5, every=4, seed=3),
    detector=Plan(steps=15, lr=3e-3, warmup=2, clip=5.0, every=5, seed=7),
    detector_batch=12,
)

REFINE = Recipe(
    images=10_000,
    crops=None,
    whole=None,
    decoder=Plan(steps=400, lr=4e-4, warmup=40, ema=0.99, every=100, seed=3),
    text=Plan(steps=700, lr=1.5e-3, warmup=30, every=100, seed=4),
    text_batch=64,
    keep=2.0,
    denoiser=Plan(steps=1500, lr=7e-4, warmup=50, flat=0.2, ema=0.998, every=50, seed=5),
    detector=None,
    plain_empty=False,
)

POLISH = Recipe(
    images=10_000,
    crops=None,
    whole=None,
    decoder=None,
    text=None,
    denoiser=Plan(steps=1400, lr=6e-4, warmup=50, flat=0.2, ema=0.998, every=50, seed=6),
    detector=None,
    grammar=replace(WIDE, style=0.95),
    style_shares=(0.25, 0.20, 0.25, 0.30),
)

BUDGETS = {"tiny": TINY, "smoke": SMOKE, "full": Recipe(), "refine": REFINE, "polish": POLISH}


class Run:
    """One run of a recipe in a folder: checkpoints in ``checkpoints/``, cached latents in ``latents/``.

    ``start``: a pipeline folder to go on from, None to start from random weights. Stages load what earlier stages left,
    so each can be called alone, in order.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        start: Path | None = None,
        device: str = "cpu",
        report: Report | None = None,
    ) -> None:
        if start is None and None in (recipe.whole, recipe.text, recipe.denoiser):
            raise BadInput("This budget goes on from a trained model. Name its folder with --start.")
        self.recipe, self.out, self.device, self.report = recipe, out, device, report
        self.tokens = CaptionTokens(load_tokenizer())
        if start is None:
            parts = (new_autoencoder(recipe.seed), new_text_encoder(recipe.seed), new_denoiser(recipe.seed))
        else:
            parts = load_parts(start)
        self.vae, self.text, self.unet = (part.to(device) for part in parts)
        self.losses: dict[str, list[float]] = {}

    def run(self, stages: Sequence[str] | None = None) -> Path:
        """Run the stages named (default: all), finished ones in no time. Returns the exported pipeline folder."""
        known = {name: getattr(self, name) for name in STAGES}
        for name in stages or STAGES:
            if name not in known:
                raise BadInput(f"There is no stage {name!r}. Stages: {', '.join(STAGES)}.")
        last = max(STAGES.index(name) for name in stages or STAGES)
        # a stage needs the results of those before it; finished ones only load their checkpoint
        for name in STAGES[: last + 1]:
            if name != "detector" or stages is None or "detector" in stages:
                known[name]()
        return self.out / "model"

    def autoencoder(self) -> None:
        """Encoder and decoder: crops, then whole pictures; measures the scaling of the latents."""
        for name, plan, batch, crop in (
            ("crops", self.recipe.crops, self.recipe.crops_batch, 32),
            ("whole", self.recipe.whole, self.recipe.whole_batch, 64),
        ):
            if plan is not None:
                self.losses[name] = train_autoencoder(
                    self.vae, self.recipe.supply, plan, batch, crop, self._file(name), self._progress(name)
                )
        if self.recipe.whole is not None:
            self.vae.register_to_config(scaling_factor=latent_scaling(self.vae, self.recipe.supply))

    def decoder(self) -> None:
        """The decoder alone, for sharper edges."""
        if self.recipe.decoder is not None:
            self.losses["decoder"] = train_decoder(
                self.vae,
                self.recipe.supply,
                self.recipe.decoder,
                self.recipe.whole_batch,
                self._file("decoder"),
                progress=self._progress("decoder"),
            )

    def text_encoder(self) -> None:
        """The reader of captions."""
        r = self.recipe
        if r.text is not None:
            reader, self.losses["text_encoder"] = train_text_encoder(
                self.text,
                self.tokens,
                r.supply,
                r.grammar,
                r.text,
                r.text_batch,
                self._file("text_encoder"),
                r.keep,
                self._progress("text_encoder"),
            )
            self.text = reader.encoder

    def latents(self) -> Tensor:
        """Scaled latents of the training pictures, cached on disk."""
        encoder = hashlib.sha256()
        for name, value in self.vae.state_dict().items():
            if name.startswith(("encoder.", "quant_conv.")):
                encoder.update(value.detach().cpu().numpy().tobytes())
        supply = self.recipe.supply
        encoder.update(pictures([supply[i] for i in range(16)]).numpy().tobytes())  # the drawing may change, too
        tag = json.dumps([asdict(supply), encoder.hexdigest()[:16]])
        if workers()[0] != 0:
            wait()  # for the process that makes them
        raw = cached_latents(self.vae, supply, self.recipe.images, self.out / "latents", tag, self._progress("latents"))
        if workers()[0] == 0:
            wait()
        return raw * self.vae.config.scaling_factor

    def denoiser(self) -> None:
        """The denoiser, on the cached latents and the frozen text encoder."""
        r = self.recipe
        if r.denoiser is not None:
            self.losses["denoiser"] = train_denoiser(
                self.unet,
                self.text,
                self.tokens,
                self.latents(),
                r.supply,
                r.grammar,
                r.denoiser,
                r.denoiser_batch,
                self._file("denoiser"),
                r.plain_empty,
                self._progress("denoiser"),
            )

    def export(self) -> None:
        """The pipeline folder, in half precision."""
        if workers()[0] == 0:
            export(self.out / "model", self.vae, self.text, self.unet)

    def detector(self) -> None:
        """The independent judge; it does not depend on the other stages."""
        r = self.recipe
        if r.detector is not None:
            detector, self.losses["detector"] = train_detector(
                self._file("detector"), r.detector, r.detector_batch, self.device, self._progress("detector")
            )
            if workers()[0] == 0:
                save_detector(detector, self.out / "detector" / "detector.safetensors")

    def _file(self, stage: str) -> Path:
        return self.out / "checkpoints" / f"{stage}.safetensors"

    def _progress(self, stage: str) -> Callable[[int, int, float], None] | None:
        report = self.report
        return None if report is None else lambda done, total, loss: report(stage, done, total, loss)


STAGES: tuple[str, ...] = ("autoencoder", "text_encoder", "latents", "denoiser", "decoder", "export", "detector")
"""Stages in order."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON data."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return data

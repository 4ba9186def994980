"""Safe Latent Diffusion (SLD, 2211.05105, CVPR 2023) with its four published presets and one of ours.

phi = min(1, s_S |c - S|), mu = phi where c - S < lambda else 0, gamma = mu (S - u) + s_m nu,
nu = beta nu + (1 - beta) gamma from the first step on, and after a warm-up u + w (c - u - gamma).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import choice, flag, number
from ..masks import SignThreshold
from ..momentum import Momentum
from ..progress import Window
from ..term import Edit, GuidanceTerm
from .common import Shared, words

NAME = "sld"
SUMMARY = "Pushes away only where the picture leans towards the concept, with momentum and a warm-up."
WHY = """\
The published presets count warm-ups in steps of 50; here they are parts of the run: 0.3, 0.2, 0.14, 0. Momentum is
gathered during the warm-up, as published, so a preset with momentum is evaluated from 'start' on (1.5 times), the weak
one from its warm-up on. A prompt that is word for word the safety text switches the published method off (its mask is
empty there); preset=balanced is medium with a least mask of 0.1 against that. Thresholds were tuned on Stable
Diffusion 1; relative=yes counts them in standard deviations of each picture's own prompt direction, for other models.
Long lists of terms blur into each other: write one concept per line, each gets a mask of its own.
"""


@dataclass(frozen=True)
class _Preset:
    warmup: float
    guidance_scale: float
    threshold: float
    momentum_scale: float
    mom_beta: float
    floor: float = 0.0


PRESETS: Mapping[str, _Preset] = {
    "weak": _Preset(0.30, 20.0, 0.0, 0.0, 0.0),
    "medium": _Preset(0.20, 1000.0, 0.01, 0.3, 0.4),
    "strong": _Preset(0.14, 2000.0, 0.025, 0.5, 0.7),
    "max": _Preset(0.0, 5000.0, 1.0, 0.5, 0.7),
    "balanced": _Preset(0.20, 1000.0, 0.01, 0.3, 0.4, floor=0.1),
}
"""Hyperparameters of the paper's appendix; "balanced" is ours."""


@dataclass(frozen=True)
class Settings(Shared):
    """Options of SLD; those left out are the preset's."""

    preset: str = choice("medium", tuple(PRESETS), "published hyperparameters, or 'balanced', ours")
    warmup: float | None = number(None, 0.0, 1.0, "progress before which nothing is changed")
    guidance_scale: float | None = number(None, 0.0, 10000.0, "s_S, how steeply the mask rises; below 1 is off")
    threshold: float | None = number(None, -10.0, 10.0, "lambda: where prompt minus concept is below it, it acts")
    momentum_scale: float | None = number(None, 0.0, 1.0, "s_m, how much gathered momentum is added")
    mom_beta: float | None = number(None, 0.0, 1.0, "beta_m, how much of the old momentum is kept")
    floor: float | None = number(None, 0.0, 1.0, "least value of the mask before the threshold; 0 as published")
    relative: bool = flag(False, "the threshold counts in standard deviations of the prompt's direction")
    start: float = number(0.0, 0.0, 1.0, "progress at which anything is evaluated at all, momentum included")
    end: float = number(1.0, 0.0, 1.0, "progress after which nothing is evaluated any more")
    w_eff: float | None = number(None, 0.0, 30.0, "what gamma is multiplied with instead of the guidance scale")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term: one edit per concept, one momentum for all."""
    chosen = PRESETS[settings.preset]

    def of(name: str) -> float:
        own = getattr(settings, name)
        return float(getattr(chosen, name) if own is None else own)

    mask = SignThreshold(of("guidance_scale"), of("threshold"), of("floor"), settings.relative)
    after = Window(of("warmup"), 1.0) if of("warmup") < 1 else Window(1.0, 1.0)
    on = of("guidance_scale") >= 1
    edits = tuple(Edit(words(c), -c.weight, mask=mask, window=after) for c in concepts if on)
    return GuidanceTerm(
        NAME,
        edits,
        "cfg",
        settings.w_eff,
        Momentum(of("momentum_scale"), of("mom_beta")),
        gather=True,
        window=Window(settings.start, settings.end),
        limit=settings.most,
        strength=settings.strength,
    )

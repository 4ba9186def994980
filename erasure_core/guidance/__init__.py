"""Guidance at sampling time: pushing pictures away from concepts without changing a weight.

One operator (:mod:`.term`) covers the published methods that act on the denoiser's predictions; each is a preset. A
term is immutable and knows no sampler, no host and no parameterisation:

>>> from erasure_core import guidance, models
>>> model = models.load_demo()
>>> term = guidance.sld("circle", preset="strong")
>>> latents = model.sample(model.encode(["a red circle"]), seed=7, guidance=[term])

In a sampling loop of one's own: ``term.step(state, predictions)`` for one term, :class:`.compose.Run` for several.
"""

from __future__ import annotations

from functools import partial

from .compose import Run
from .predictions import Predictions
from .presets import PRESETS, explain, make, make_with
from .progress import DiscreteClock, FlowClock, HostClock, Moment, Window
from .state import State
from .term import Edit, GuidanceTerm, Needs, Trace
from .units import Units

negative = partial(make, "negative")
negation = partial(make, "negation")
sld = partial(make, "sld")
sega = partial(make, "sega")
perp_neg = partial(make, "perp_neg")
dng = partial(make, "dng")
all_but_one = partial(make, "all_but_one")

__all__ = [
    "PRESETS",
    "DiscreteClock",
    "Edit",
    "FlowClock",
    "GuidanceTerm",
    "HostClock",
    "Moment",
    "Needs",
    "Predictions",
    "Run",
    "State",
    "Trace",
    "Units",
    "Window",
    "all_but_one",
    "dng",
    "explain",
    "make",
    "make_with",
    "negation",
    "negative",
    "perp_neg",
    "sega",
    "sld",
]

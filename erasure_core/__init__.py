"""Erase concepts from text-to-image diffusion models, and measure that it worked. The whole public surface:

>>> from erasure_core import Membrane, apply, erase, load, models, save
>>> model = models.load_demo()
>>> membrane = Membrane(erase(model, "circle -> square"))
>>> with apply(model, membrane) as applied:
...     latents = model.sample(model.encode(["a red circle"]), seed=7)
"""

from __future__ import annotations

from . import guidance, models
from .closed_form import METHODS, erase
from .concepts import Concept, ConceptSet, parse_concepts
from .erasure import EmbeddingMap, Erasure, MapFactor, WeightDelta
from .errors import (
    BadInput,
    CannotWrite,
    IllConditioned,
    Interrupted,
    MembraneError,
    NothingMatched,
    UnknownFormat,
    WrongBase,
    WrongFamily,
)
from .formats import load, save
from .membranes import Applied, Membrane, apply
from .solver import EditProblem
from .training import Callbacks, train

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Applied",
    "BadInput",
    "Callbacks",
    "CannotWrite",
    "Concept",
    "ConceptSet",
    "EditProblem",
    "EmbeddingMap",
    "Erasure",
    "IllConditioned",
    "Interrupted",
    "MapFactor",
    "Membrane",
    "MembraneError",
    "NothingMatched",
    "UnknownFormat",
    "WeightDelta",
    "WrongBase",
    "WrongFamily",
    "apply",
    "erase",
    "guidance",
    "load",
    "models",
    "parse_concepts",
    "save",
    "train",
]

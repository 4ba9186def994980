"""Trained methods by name; each is one file that says what the trained model shall predict. A new one is one more line.

A file has ``NAME``, ``SUMMARY``, ``WHY``, ``Settings`` (a child of :class:`..settings.Training`) and ``terms(settings,
draw, latent, progress)``. It may have ``roles(settings, concepts)``, further texts by role for every example;
``examples(concepts, settings)`` in place of the usual ones; ``ROWS``, how its gates feed the negative prompt's row; and
``watch(network, layers, settings, library)``, a context manager whose object adds ``loss(rows, draw)`` to a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ...errors import BadInput
from ...options import explain_options
from . import esd, spm

METHODS: Mapping[str, ModuleType] = {module.NAME: module for module in (spm, esd)}


def method_named(name: str) -> ModuleType:
    """The method's module. Raises BadInput, listing what there is."""
    if name not in METHODS:
        raise BadInput(f"Unknown method '{name}'. Known: {', '.join(METHODS)}.")
    return METHODS[name]


def explain(name: str) -> str:
    """A method for people: what it is for, why its defaults are what they are, and every setting with its range."""
    module = method_named(name)
    settings = explain_options(module.Settings)
    return f"{name}: {module.SUMMARY}\n\n{module.WHY}\nSettings, each as --option NAME=VALUE:\n{settings}"

"""Trained methods by name; each is one file that says what the trained model shall predict. A new one is one more line.

A file has ``NAME``, ``SUMMARY``, ``WHY``, ``Settings`` (a child of :class:`..settings.Training`) and ``terms(settings,
draw, latent, progress)``. It may have ``roles(settings, concepts)``, further texts by role for every example;
``examples(concepts, settings)`` in place of the usual ones; ``GUIDES``, the roles of the texts that latents are guided
to and away from; ``ROWS``, how its gates feed the negative prompt's row; ``masks(settings, trainer)``, by parameter
what of it learns, when not all of it does; ``law(settings, timesteps)``, how likely each timestep is; ``watch(job,
network, library)``, a context manager whose object has ``prepare(engine, latents, draw)`` and adds ``loss(rows, draw)``
to a batch; and ``finished(job, erasure)``, what becomes of the trained changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ...errors import BadInput
from ...options import explain_options
from . import ablating, ace, ant, eap, esd, few_shot, leco, mace_lora, sdd, slider, slug, spm

METHODS: Mapping[str, ModuleType] = {
    module.NAME: module for module in (spm, esd, slider, leco, ace, sdd, ablating, ant, eap, mace_lora, few_shot, slug)
}


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

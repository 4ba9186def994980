"""Dynamic Negative Guidance (DNG, 2410.14398, ICLR 2025): b - lambda0 p / (1 - p) (n - b), p a running posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...concepts import Concept
from ...options import choice, flag, number
from ..directions import FromGuided, Null
from ..gates import Posterior
from ..term import Edit, GuidanceTerm
from .common import Windowed, words

NAME = "dng"
SUMMARY = "Pushes as hard as the picture is likely to become the concept; leaves unrelated pictures alone."
WHY = """\
Each picture carries a belief that it shows the concept, kept up to date by where the sampler lands. That is defined
for samplers that draw from the diffusion's posterior (DDPM, Euler ancestral); with others the evidence is taken from
the predictions, which is approximate. Pictures that are not the concept lose their belief, and after three such steps
the concept is not evaluated until the next quarter of the run. base=unguided measures and pushes from the
unconditional prediction, as the authors' small code does, and adds guidance on top.
"""


@dataclass(frozen=True)
class Settings(Windowed):
    """Options of DNG."""

    lambda0: float = number(12.0, 0.0, 30.0, "scale of the push")
    prior: float = number(0.01, 1e-4, 0.5, "belief at the start")
    tau: float = number(0.25, 0.05, 1.0, "temperature: how much a step's evidence counts")
    delta: float = number(0.003, -1.0, 1.0, "offset added to the evidence")
    limit: float | None = number(
        None, 0.2, 4.0, "as for every method; left out: none with evidence=kernel, as published, else 1"
    )
    p_max: float = number(0.9, 0.5, 0.99, "highest belief")
    kappa: float = number(2.0, 0.0, 100.0, "how much approximate evidence counts")
    evidence: str = choice("auto", ("auto", "kernel", "predictions"), "auto: the kernel's if the sampler has one")
    base: str = choice("cfg", ("cfg", "unguided"), "b: the guided prediction, or the unconditional one")
    self_off: bool = flag(True, "stop evaluating a concept that no picture shows")


def build(concepts: Sequence[Concept], settings: Settings) -> GuidanceTerm:
    """The term: a belief for each concept and picture."""
    guided = settings.base == "cfg"
    # with approximate evidence a prompt that is the concept soon has p_max, a push of 100 times the direction
    limit = 1.0 if settings.limit is None and settings.evidence != "kernel" else settings.most
    gate = Posterior(
        settings.lambda0, settings.prior, settings.tau, settings.delta, settings.p_max, settings.evidence,
        settings.kappa, guided, settings.self_off,
    )  # fmt: skip
    edits = tuple(
        Edit(words(c), -c.weight, FromGuided() if guided else Null(), gate=gate, window=settings.window)
        for c in concepts
        if settings.lambda0
    )
    return GuidanceTerm(NAME, edits, "absolute", limit=limit, strength=settings.strength)

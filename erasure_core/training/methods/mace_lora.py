"""MACE (arXiv 2403.06135) with its LoRA: words around the concept refined, attention to it suppressed, both fused.

Over the closed-form refinement a LoRA on keys and values learns that nothing where the object is looks at the concept's
words: ``sum_l |A_l[mask, words]|_F``, at timesteps ``p(t) ~ s(0.05 (t - 200)) - s(0.05 (t - 400))``, where an object
takes its shape. In the end a least-squares fusion makes it act on the concept's texts alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...closed_form import erase
from ...concepts import ConceptSet
from ...erasure import EmbeddingMap, Erasure
from ...errors import BadInput
from ...fusion import Teacher, fuse
from ...options import choice, flag, number
from ...templates import fill
from ..attention import Maps, looked_at, suppression, watched
from ..draw import Draw
from ..engine import Engine, Latents, Row
from ..examples import Example, templates_of
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import Term
from ..texts import Library, Texts

if TYPE_CHECKING:
    from ..run import Job
    from ..trainable import Network

NAME = "mace_lora"
SUMMARY = "MACE: words around the concept refined, a LoRA that suppresses attention to the concept's own, both fused."
WHY = (
    "For objects that have a name and a place in the picture. The refinement is that of the closed-form method 'mace', "
    "which spares the concept's own words; the LoRA takes those, and the fusion lets it act on sentences with the "
    "concept and nowhere else, so preserved phrases are kept by computation, not by training. The published code finds "
    "the object with an external segmenter; here its place is where the frozen model itself looks at the word "
    "(mask=full: everywhere, for styles). Cheap: no text but the concept's is evaluated."
)


@dataclass(frozen=True)
class Settings(Training):
    """MACE's numbers; the learning rates of the paper are for half as many layers of a far larger model."""

    steps: int = number(100, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(1e-3, 1e-8, 1.0, "learning rate of Adam")
    decay: float = number(0.01, 0.0, 1.0, "weight decay of AdamW")
    scope: str = choice("xattn-kv", SCOPES, explain_scopes())
    grid: int = number(50, 2, 1000, "timesteps of a trajectory", whole=True)
    draws: int = number(4, 1, 64, "noise levels of one picture in each update", whole=True)
    latents: str = choice("noised", ("noised", "teacher"), "pictures of the frozen model with new noise, or on its way")
    pool: int = number(2, 1, 4096, "how many pictures of the frozen model there are of each sentence", whole=True)
    early: float = number(200.0, 0.0, 1000.0, "the timesteps trained at begin here, softly")
    late: float = number(400.0, 0.0, 1000.0, "and end here; equal to the beginning means all alike")
    mask: str = choice("attention", ("attention", "full"), "where the frozen model looks at the concept, or everywhere")
    threshold: float = number(0.5, 0.0, 1.0, "of that attention, from which a place belongs to the concept")
    padding: bool = flag(False, "suppress the end-of-text and padding tokens, too, which repeat what was said")
    refine: bool = flag(True, "refine the words around the concept first")
    preserve_scale: float = number(10.0, 0.0, 1e6, "weight of each preserved text in the fusion")
    fused: bool = flag(True, "fuse, so that it acts on the concept's texts only; otherwise the LoRA as it was trained")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form != "lora" or self.scope != "xattn-kv":
            raise BadInput("MACE fuses LoRAs on keys and values: leave form=lora and scope=xattn-kv as they are.")
        if self.early > self.late:
            raise BadInput(f"The timesteps run from early={self.early:g} to late={self.late:g}: exchange the two.")


def examples(concepts: ConceptSet, settings: Settings) -> list[Example]:
    """Every phrase in every sentence, with the phrase itself, whose tokens are looked for."""
    if len(concepts.concepts) > 1:
        raise BadInput("MACE trains one LoRA for each concept. Train them one by one and apply them together.")
    return [
        Example({"concept": fill(template, phrase), "anchor": "", "phrase": phrase}, 1 / len(concept.phrases))
        for concept in concepts
        for phrase in concept.phrases
        for template in templates_of(concept, settings)
    ]


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """The refined text is evaluated for its attention; its prediction counts nothing."""
    return [Term("refined", {}, 0.0)]


def law(settings: Settings, timesteps: Tensor) -> Tensor:
    """How likely each of ``timesteps`` (0..999) is."""
    if settings.early == settings.late:
        return torch.ones(len(timesteps), dtype=torch.float64)
    t = timesteps.double()
    return torch.sigmoid(0.05 * (t - settings.early)) - torch.sigmoid(0.05 * (t - settings.late))


class Suppressor:
    """Adds the loss of the attention maps to each batch. ``refinement``: a map of the text, None for none."""

    def __init__(self, maps: Maps, settings: Settings, library: Library, refinement: EmbeddingMap | None) -> None:
        self._maps, self._settings, self._library, self._refinement = maps, settings, library, refinement
        self._mask = torch.empty(0)

    def prepare(self, engine: Engine, latents: Latents, draw: Draw) -> None:
        """The refined text of an update, and where the frozen model looks at the concept in its picture."""
        own = draw.rows["concept"]
        refined = own.hidden if self._refinement is None else self._refinement(own.hidden)
        draw.rows["refined"] = Texts(refined, own.pooled)
        size = (latents.x.shape[-2], latents.x.shape[-1])
        if self._settings.mask == "full":
            self._mask = torch.ones(size)
            return
        seen, rows = torch.zeros(size), [(i, "concept") for i in range(len(latents))]
        words = self._library.positions(draw.example.texts["concept"], draw.example.texts["phrase"])
        with engine.adapter.acting(False), torch.no_grad():
            for part in engine.parts(rows):
                engine.rows(latents, draw.rows, part)
                seen += looked_at(self._maps, range(len(part)), words, size) * len(part) / len(rows)
        self._mask = (seen >= self._settings.threshold * seen.max()).float()

    def loss(self, rows: Sequence[Row], draw: Draw) -> Tensor:
        """The sum over the batch's rows, of which each is one latent with the refined text."""
        text = draw.example.texts["concept"]
        tokens = self._library.positions(text, draw.example.texts["phrase"])
        if self._settings.padding:
            tokens = (*tokens, *self._library.padding(text))
        return suppression(self._maps, range(len(rows)), tokens, self._mask)


@contextmanager
def watch(job: Job, network: Network, library: Library) -> Iterator[Suppressor]:
    """The attention maps, and the refinement under them."""
    with watched(network, job.model.shapes()) as maps:
        base = _refinement(job)
        space = next(iter(job.model.spaces))
        yield Suppressor(maps, job.settings, library, None if base is None else base.maps.get(space))


def finished(job: Job, trained: Erasure) -> Erasure:
    """The LoRA fused on top of the refinement."""
    if not job.settings.fused:
        return trained
    (concept,) = job.concepts.concepts
    kept = job.concepts.all_preserved
    teacher = Teacher(trained, concept.phrases, concept.kind)
    fused = fuse(job.model, [teacher], _refinement(job), kept, preserve_scale=job.settings.preserve_scale)
    return replace(trained, weight_deltas=fused.weight_deltas)


def _refinement(job: Job) -> Erasure | None:
    return erase(job.model, job.concepts, "mace") if job.settings.refine else None

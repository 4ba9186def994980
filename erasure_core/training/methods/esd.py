"""ESD, erased stable diffusion (arXiv 2303.07345): ``|eps(x, c) - (e_0 - eta (e_c - e_0))|^2``, nothing preserved.

The choice of layers is the method's only protection: cross-attention for names and styles (ESD-x), the rest for what a
picture shows without being named (ESD-u).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...concepts import ConceptSet
from ...options import choice, flag, number, text
from ..draw import Draw
from ..scopes import SCOPES, explain_scopes
from ..settings import Training
from ..terms import Term, beyond, guided_away, keep, merged

NAME = "esd"
SUMMARY = "ESD: away from the concept, toward the empty prompt; scope=xattn for what is named, noxattn for the rest."
WHY = (
    "With an anchor the model is led from the anchor instead of the empty prompt, so that something is drawn. The "
    "published code trains whole weights; a LoRA of rank 4 does as much with a hundredth of the file. "
    "form=weights gives the published kind."
)


@dataclass(frozen=True)
class Settings(Training):
    """ESD's numbers."""

    eta: float | None = number(
        None, 0.0, 50.0, "how far beyond the base; 1, or where an anchor is named 0.2, for styles 0.5"
    )
    lr: float = number(3e-3, 1e-8, 1.0, "learning rate of Adam")
    steps: int = number(120, 1, 200_000, "updates of the adapter", whole=True)
    word_anchors: int = number(2, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(5.0, 0.0, 1e6, "how much the anchors count")
    scope: str = choice("xattn", SCOPES, explain_scopes())
    rank: int = number(4, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(4.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    erase_from: str = text("", "erase only inside this context: the model is trained at its text (e.g. painting)")
    code_target: bool = flag(False, "the target of the newer official code, e_c - eta (e_c - e_0): one unit weaker")


def terms(settings: Settings, draw: Draw, latent: int, progress: float) -> list[Term]:
    """One term; anchors only where the settings ask for some."""
    eta = beyond(settings.eta, draw)
    if settings.erase_from:
        target = merged({"context": 1.0}, {"anchor": eta}, {"concept": -eta})
        erase = Term("context", target)
    elif settings.code_target:
        erase = Term("concept", merged({"concept": 1.0 - eta}, {"anchor": eta}))
    else:
        erase = Term("concept", guided_away("concept", "anchor", eta))
    kept = draw.anchors[latent]
    return [erase, *(keep(kept, settings.anchor_weight) if kept else ())]


def roles(settings: Settings, concepts: ConceptSet) -> dict[str, str]:
    """The context that is erased from, where there is one."""
    return {"context": settings.erase_from} if settings.erase_from else {}

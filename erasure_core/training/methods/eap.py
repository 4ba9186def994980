"""EAP, erasing with adversarial preservation (arXiv 2410.15618): keep what suffers most.

``|eps(x, c) - e_n|^2 + lambda |eps(x, w) - e_w|^2`` with the anchor n and w the text, of several drawn from the bank,
that the training has changed most so far.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...options import number
from . import esd

NAME = "eap"
SUMMARY = "EAP: to the anchor, while of several texts of the bank the one that suffers most is kept in each update."
WHY = (
    "For concepts with close neighbours that you can name: give them as preserved phrases, and the training finds by "
    "itself which of them needs help. Each update looks at worst=m texts, which costs 2 m evaluations more. The paper "
    "searches by gradient over a soft choice of words; here the maximum is looked up. It measures distances on the "
    "predicted picture, here they are on the prediction itself, so that noisy steps do not outweigh all others. Any "
    "other method does the same with word_anchors=1, worst=8."
)


@dataclass(frozen=True)
class Settings(esd.Settings):
    """EAP's numbers."""

    eta: float = number(0.0, 0.0, 50.0, "how far beyond the anchor, away from the concept")
    word_anchors: int = number(1, 1, 64, "texts of the bank per latent; the worst one takes their place", whole=True)
    worst: int = number(8, 1, 64, "preserve the one of so many texts of the bank that suffers most", whole=True)


terms = esd.terms
roles = esd.roles

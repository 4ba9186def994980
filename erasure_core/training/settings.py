"""Settings that every trained method has; a method overrides the defaults it wants others for."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BadInput
from ..options import choice, flag, number, text
from .scopes import SCOPES, explain_scopes

PRESETS = {"fast": 0.4, "balanced": 1.0, "thorough": 3.0}
"""How many of a method's usual steps are made."""


@dataclass(frozen=True)
class Training:
    """How an erasure is trained. Learning rates are of Adam; ``steps`` are updates of the adapter."""

    steps: int = number(400, 1, 200_000, "updates of the adapter", whole=True)
    lr: float = number(1e-3, 1e-8, 1.0, "learning rate of Adam")
    schedule: str = choice("cosine", ("constant", "cosine"), "the learning rate after warming up")
    warmup: int = number(10, 0, 10_000, "updates until the learning rate is reached", whole=True)
    decay: float = number(0.0, 0.0, 1.0, "weight decay of AdamW")
    clip: float = number(1.0, 0.0, 1e6, "largest norm of the gradient, 0 for none")
    seed: int = number(0, 0, 2**53, "of everything random", whole=True)
    form: str = choice("lora", ("lora", "weights"), "a pair of thin matrices per layer, or whole differences")
    scope: str = choice("xformer", SCOPES, explain_scopes())
    rank: int = number(1, 1, 1024, "rank of the pairs", whole=True)
    alpha: float = number(1.0, 1e-3, 4096.0, "a pair counts alpha / rank times")
    grid: int = number(20, 2, 1000, "timesteps of a trajectory", whole=True)
    draws: int = number(4, 1, 64, "latents of one trajectory in each update, one from each part of it", whole=True)
    guidance: float = number(3.0, 0.0, 50.0, "guidance scale that makes the latents")
    latents: str = choice(
        "student",
        ("student", "teacher", "average", "noised", "final"),
        "whose trajectories: the model in training, the frozen one, the moving average; pictures of the frozen one "
        "with new noise; or, as some published code does by mistake, finished pictures at any timestep",
    )
    pool: int = number(64, 1, 4096, "how many trajectories or pictures of the frozen model there are", whole=True)
    compat_timestep: bool = flag(False, "tell the network the timestep that published trainers do, 19 to 42 too many")
    sentences: str = choice("sentences", ("bare", "sentences", "contexts"), "the phrase alone, or in sentences")
    templates: str = text("", "more sentences, with {} for the phrase and / between them")
    random_anchors: int = number(0, 0, 64, "texts of random directions per latent that must stay", whole=True)
    word_anchors: int = number(0, 0, 64, "texts of the bank per latent that must stay", whole=True)
    anchor_weight: float = number(1.0, 0.0, 1e6, "how much the anchors count")
    anchor_power: float = number(1.0, 0.0, 16.0, "anchors are drawn by (1 - |cosine with the concept|) to this power")
    worst: int = number(0, 0, 64, "preserve the one of so many texts of the bank that suffers most (EAP)", whole=True)
    attack: int = number(0, 0, 200, "steps of an attack on the concept's text in each update (RACE)", whole=True)
    attack_radius: float = number(
        0.4, 1e-6, 100.0, "how far the attack may move a number of the text, 0.1 in the paper; more than what is feared"
    )
    attack_aim: str = choice(
        "concept",
        ("concept", "noise"),
        "what the attack is after: what the frozen model says of the concept, or, as published, the noise that the "
        "trajectory began with",
    )
    attack_pull: float = number(0.0, 0.0, 100.0, "RACE's pull back to where training began, 0.1 in its code")
    surgery: bool = flag(False, "take out of the erasing gradient what hurts the preserved texts (DoCo)")
    average: float = number(0.0, 0.0, 0.99999, "decay of the moving average that becomes the result, 0 for none")
    plateau: float = number(0.0, 0.0, 1.0, "stop when the loss falls by less than this share; 0 never stops early")
    size: int = number(0, 0, 4096, "edge of the square pictures trained on; 0 is the model's own", whole=True)
    micro: int = number(0, 0, 4096, "texts evaluated at once, 0 lets the machine choose", whole=True)
    checkpointing: bool | None = flag(None, "half the memory or less, a third more time; by default for large models")

    def __post_init__(self) -> None:
        if self.draws > self.grid:
            raise BadInput(f"draws={self.draws} needs a grid of as many timesteps; grid is {self.grid}.")
        if self.latents == "average" and not self.average:
            raise BadInput("latents=average needs a moving average: set average=0.99 or the like.")
        if self.size % 64:
            raise BadInput(f"size must be a multiple of 64, not {self.size}.")
        if self.worst and not self.word_anchors:
            raise BadInput("worst=m chooses among the word anchors: set word_anchors=1 or more, too.")

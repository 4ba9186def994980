"""Prompt groups: what is drawn to find out whether a concept is gone and the rest still there."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import BadInput

DIRECT, INDIRECT, NEIGHBOUR, UNRELATED = "direct", "indirect", "neighbour", "unrelated"
LEFT_OUT, REROLL = "left out", "reroll"
ROLES = (DIRECT, INDIRECT, NEIGHBOUR, UNRELATED, LEFT_OUT, REROLL)
BASE_ONLY = (LEFT_OUT, REROLL)
CONCEPT_ROLES = (DIRECT, INDIRECT, LEFT_OUT)
DRAWS = 100

Prompt = tuple[str, Mapping[str, str]]
"""A prompt and what it should show: attribute -> label."""


@dataclass(frozen=True)
class Case:
    """One picture to draw with and without the membrane, and what it should show.

    ``expect``: attribute -> label, as the detector names them. In groups about the concept the entry of the concept's
    own attribute is what should be gone afterwards; every other entry should stay.
    """

    prompt: str
    seed: int
    group: str
    expect: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptGroup:
    """Cases that are counted together.

    ``role`` is one of :data:`ROLES`. The groups "left out" (direct prompts without the concept's word) and "reroll"
    (unrelated prompts with another seed) are drawn by the model alone. ``attribute`` is the one the concept belongs to.
    """

    name: str
    title: str
    role: str
    attribute: str
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise BadInput(f"Prompt group {self.name!r} has the unknown role {self.role!r}; use one of {ROLES}.")
        for case in self.cases:
            if case.group != self.name:
                raise BadInput(f"A case of group {case.group!r} stands in group {self.name!r}.")
            if not case.prompt.strip():
                raise BadInput(f"Prompt group {self.name!r} has an empty prompt.")
            if self.role in CONCEPT_ROLES and self.attribute not in case.expect:
                raise BadInput(
                    f"{case.prompt!r} in group {self.name!r} does not say which {self.attribute} to look for."
                )

        if len({(case.prompt, case.seed) for case in self.cases}) < len(self.cases):
            raise BadInput(f"Prompt group {self.name!r} has a prompt twice with the same seed; give it another seed.")

    @property
    def base_only(self) -> bool:
        """Whether only the model without membrane draws it."""
        return self.role in BASE_ONLY


@dataclass(frozen=True)
class Size:
    """How many (prompts, seeds) each group gets; ``neighbours`` is (neighbours, pictures of each)."""

    name: str
    direct: tuple[int, int]
    paraphrase: tuple[int, int]
    misspelling: tuple[int, int]
    neighbours: tuple[int, int]
    unrelated: tuple[int, int]


QUICK = Size("quick", (5, 2), (4, 2), (4, 1), (6, 2), (8, 1))
STANDARD = Size("standard", (10, 4), (10, 4), (12, 2), (10, 8), (20, 2))
FULL = Size("full", (20, 10), (20, 10), (20, 5), (40, 10), (100, 3))
SIZES: Mapping[str, Size] = {size.name: size for size in (QUICK, STANDARD, FULL)}


def seed_of(prompt: str, draw: int = 0) -> int:
    """Seed of the ``draw``-th picture of a prompt, below 10^8.

    It depends on the prompt alone: different prompts do not share their noise, so that one lucky noise cannot decide a
    group, and a prompt met again in another group or a larger size is a picture that exists already.
    """
    return DRAWS * (zlib.crc32(prompt.encode()) % 1_000_000) + draw


def make_group(
    name: str, title: str, role: str, attribute: str, prompts: Iterable[Prompt], draws: int = 1, seed: int = 0
) -> PromptGroup:
    """A group of every prompt, each drawn ``draws`` times (at most 100); a prompt given twice counts once.

    ``seed`` is added to the seeds of :func:`seed_of`, for a repetition with other pictures.
    """
    if not 1 <= draws <= DRAWS:
        raise BadInput(f"A prompt is drawn 1 to {DRAWS} times, not {draws}.")
    unique: dict[str, Mapping[str, str]] = {}
    for prompt, expect in prompts:
        unique.setdefault(prompt, expect)
    cases = tuple(
        Case(prompt, seed_of(prompt, draw) + seed, name, dict(expect))
        for prompt, expect in unique.items()
        for draw in range(draws)
    )
    return PromptGroup(name, title, role, attribute, cases)


def left_out(group: PromptGroup, name: str, title: str, rewrite: Callable[[str], str]) -> PromptGroup:
    """The group's cases, seeds included, with prompts rewritten to do without the concept; empty ones are dropped."""
    cases = tuple(
        Case(rewrite(case.prompt), case.seed, name, {group.attribute: case.expect[group.attribute]})
        for case in group.cases
        if rewrite(case.prompt).strip()
    )
    return PromptGroup(name, title, LEFT_OUT, group.attribute, cases)


def reroll(group: PromptGroup, name: str) -> PromptGroup:
    """The group's prompts with other seeds: how far pictures differ by the seed alone."""
    shift = max(Counter(case.prompt for case in group.cases).values(), default=1)
    cases = tuple(replace(case, group=name, seed=case.seed + shift) for case in group.cases)
    return PromptGroup(name, f"{group.title}, other seed", REROLL, group.attribute, cases)


def limited(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """At most ``count`` entries spread evenly over the whole list, so that no label is left out at its end."""
    if count >= len(prompts):
        return list(prompts)
    return [prompts[i * len(prompts) // count] for i in range(count)]

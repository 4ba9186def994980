"""The bank of the gate benchmark: 100 real concepts, prompts that name them, that name neighbours, that describe them
without their name, and 300 that have nothing to do with them. All of our own writing.

Everything comes in the two halves of firewall_bank.py, drawn at random once and for all. Gates are tuned on the
concepts and prompts "seen" only; "held out" was written at the same time, before any gate was tuned.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from firewall_bank import HALVES, half, neutral

DATA = Path(__file__).parent / "data"
SHAPES_OF_PHRASE, SHAPES_OF_ALIAS, SHAPES_OF_NEIGHBOUR = 4, 2, 2
TAILS = (
    "",
    ", highly detailed, 8k, sharp focus",
    "",
    ", trending on artstation, cinematic lighting",
    ", 35mm, film grain, (masterpiece:1.2)",
    "",
    ", digital painting, soft colours, wallpaper",
)
KINDS = {"animal": "object"}  # kinds of the bank that the product calls otherwise


@dataclass(frozen=True)
class Entry:
    """A concept: what names it, neighbours that a gate is told of and others, and prompts that only describe it."""

    sort: str
    phrases: tuple[str, ...]
    declared: tuple[str, ...]
    others: tuple[str, ...]
    described: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The kind that the product knows."""
        return KINDS.get(self.sort, self.sort)


def _lines(name: str) -> Iterator[str]:
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


def entries() -> list[Entry]:
    """All 100 concepts, in the order of the file."""
    found: list[dict] = []
    for line in _lines("gate_concepts.txt"):
        mark, _, text = line.strip().partition(" ")
        if mark.endswith(":"):
            found.append({"sort": mark[:-1], "phrases": _phrases(text), "described": ()})
        elif mark == ">":
            found[-1]["described"] += (text,)
        else:
            found[-1][{"+": "declared", "-": "others"}[mark]] = _phrases(text)
    return [Entry(**fields) for fields in found]


def shapes(sort: str) -> list[str]:
    """Prompts around a name for a kind of concept."""
    return [text for kind, text in (line.split(": ", 1) for line in _lines("gate_prompts.txt")) if kind == sort]


def said(shape: str, name: str) -> str:
    """The name in its place; ``{a}`` puts an article before common words."""
    common = name.islower()
    article = "" if not common else ("an " if name[0] in "aeiou" else "a ")
    return shape.replace("{a}", article + name).replace("{n}", name)


def _around(names: Sequence[str], sort: str, count: int, seed: str) -> list[str]:
    rng = random.Random(seed)
    return [said(shape, name) for name in names for shape in rng.sample(shapes(sort), count)]


def prompts(entry: Entry) -> dict[str, list[str]]:
    """Way -> prompts: "named", "alias", "declared neighbour", "other neighbour", "described"."""
    name, *aliases = entry.phrases
    return {
        "named": _around([name], entry.sort, SHAPES_OF_PHRASE, f"named {name}"),
        "alias": _around(aliases, entry.sort, SHAPES_OF_ALIAS, f"alias {name}"),
        "declared neighbour": _around(entry.declared, entry.sort, SHAPES_OF_NEIGHBOUR, f"declared {name}"),
        "other neighbour": _around(entry.others, entry.sort, SHAPES_OF_NEIGHBOUR, f"other {name}"),
        "described": list(entry.described),
    }


def concepts(which: str) -> list[Entry]:
    """One half of the concepts."""
    return half(entries(), which)


def unrelated(which: str) -> list[str]:
    """One half of the 300 prompts, some with the endings that picture makers add."""
    return [prompt + TAILS[i % len(TAILS)] for i, (_, prompt) in enumerate(neutral(which))]


__all__ = ["HALVES", "Entry", "concepts", "entries", "prompts", "said", "shapes", "unrelated"]

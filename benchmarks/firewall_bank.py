"""The bank of the firewall benchmark: 10,000 generated concepts, 500 of them common words, prompts that name them, and
300 that name none. All of our own writing, the same for the same seed.

Everything comes in two halves. Rules and word lists were tuned on the half "seen" only; "held out" was written at the
same time, before any rule, and was not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

DATA = Path(__file__).parent / "data"
HALVES = ("seen", "held out")
SIZE, TRAPS = 10_000, 500


def _lines(name: str) -> list[str]:
    text = (DATA / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def sections(name: str) -> list[tuple[str, list[str]]]:
    """(name, words) of every line "name: words" of a data file."""
    return [(head, words.split()) for head, words in (line.split(":") for line in _lines(name))]


WORDS: dict[str, list[str]] = {}
for _head, _words in sections("firewall_words.txt"):
    WORDS.setdefault(_head, []).extend(_words)
FIRST, ROLES, TRAITS = (WORDS[name] for name in ("first", "roles", "traits"))
THINGS, SORTS, ISMS = (WORDS[name] for name in ("things", "sorts", "isms"))
ONSETS, VOWELS, ENDS = (WORDS[name] for name in ("onsets", "vowels", "ends"))


def stem(rng: random.Random, syllables: int) -> str:
    """An invented word that can be spoken."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDS)


def _person(rng: random.Random) -> tuple[str, str]:
    first, last = (
        rng.choice(FIRST),
        stem(rng, 1).capitalize() + rng.choice(("", "", "-" + stem(rng, 1).capitalize())),
    )
    return f"{first} {last}", f"{first[0]}. {last} {stem(rng, 1).capitalize()}"


def _character(rng: random.Random) -> tuple[str, str]:
    name = stem(rng, rng.choice((1, 2))).capitalize()
    full = rng.choice(
        (f"{rng.choice(WORDS['roles'])} {name}", f"{name} the {rng.choice(WORDS['traits'])}", f"{name}-{stem(rng, 1)}")
    )
    return full, f"{name} {stem(rng, 1).capitalize()}"


def _brand(rng: random.Random) -> tuple[str, str]:
    name = stem(rng, 2).capitalize()
    return rng.choice((name, f"{name} {stem(rng, 1).upper()}", f"{name} {rng.randint(2, 99)}")), f"{name}corp"


def _style(rng: random.Random) -> tuple[str, str]:
    name = stem(rng, 1)
    return f"{name}{rng.choice(WORDS['isms'])}", f"{rng.choice(WORDS['first'])} van {stem(rng, 1).capitalize()}"


def _object(rng: random.Random) -> tuple[str, str]:
    name, thing = stem(rng, 1), rng.choice(THINGS)
    return f"{rng.choice(WORDS['sorts'])} {name} {thing}", f"{name} {rng.choice(WORDS['things'])} {rng.randint(1, 9)}"


MAKERS = {"person": _person, "character": _character, "object": _object, "style": _style, "brand": _brand}


def traps() -> list[tuple[str, str]]:
    """(kind, word) of the 500 common words."""
    found = []
    for kind, words in sections("firewall_traps.txt"):
        found += [(kind, word) for word in words]
    assert len(set(found)) == len(found) == TRAPS
    return found


def concepts(size: int = SIZE, seed: int = 0) -> list[tuple[str, str, str, bool]]:
    """(kind, name, alias, is a trap) of every concept; traps have no alias."""
    rng = random.Random(seed)
    made = [(kind, word, "", True) for kind, word in traps()][:size]
    names = {word for _, word, _, _ in made}
    while len(made) < size:
        kind = rng.choice(list(MAKERS))
        name, alias = MAKERS[kind](rng)
        if name.casefold() not in names and alias.casefold() not in names:
            names |= {name.casefold(), alias.casefold()}
            made.append(("object" if kind == "brand" else kind, name, alias, False))
    return made


def half(items: Sequence, which: str, seed: int = 1) -> list:
    """One of the two halves of a list, drawn at random once and for all."""
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    mine = sorted(order[: len(items) // 2] if which == HALVES[0] else order[len(items) // 2 :])
    return [items[i] for i in mine]


def neutral(which: str) -> list[tuple[str, str]]:
    """("easy" or "hard", prompt) of one half of those that name nothing."""
    lines = [line.split(": ", 1) for line in _lines("firewall_neutral.txt")]
    return [(sort, prompt) for sort, prompt in half(lines, which)]


def templates(which: str) -> list[str]:
    """One half of the prompts around a name."""
    return half(_lines("firewall_prompts.txt"), which)


def ways(name: str, alias: str, template: str, rng: random.Random) -> dict[str, str]:
    """The ways a prompt names a concept: way -> prompt."""
    inflected = rng.choice((plural(name), f"{name}'s", name.replace(" ", "-"), name.replace("-", " ").upper()))
    bracketed = rng.choice(
        (f"(({name}))", f"[{name}]", f"({name}:1.0)", f"(({name.split()[0]}) {name[len(name.split()[0]) + 1 :]})")
    )
    found = {
        "named": name,
        "inflected": inflected,
        "bracketed": bracketed.strip(),
        "weighted": f"({name}:{rng.uniform(0.3, 1.6):.2f})",
    }
    if alias:
        found["alias"] = alias
    return {way: template.replace("{}", text) for way, text in found.items()}


IRREGULAR = {"mouse": "mice", "goose": "geese", "ox": "oxen", "sheep": "sheep", "deer": "deer", "knife": "knives"}


def plural(name: str) -> str:
    """The plural as an English writer would put it."""
    *before, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("wolf", "leaf", "shelf", "scarf")):
        last = last[:-1] + "ves"
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last])

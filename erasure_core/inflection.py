"""Singular and plural of English words, as far as rules and a short table go."""

from __future__ import annotations

_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "louse": "lice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "die": "dice",
    "cactus": "cacti",
    "octopus": "octopi",
    "fungus": "fungi",
    "wife": "wives",
    "knife": "knives",
    "life": "lives",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "elf": "elves",
    "half": "halves",
    "calf": "calves",
    "wolf": "wolves",
    "thief": "thieves",
    "scarf": "scarves",
    "hoof": "hooves",
    "dwarf": "dwarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "echo": "echoes",
    "mosquito": "mosquitoes",
    "volcano": "volcanoes",
    "domino": "dominoes",
    "torpedo": "torpedoes",
    "quiz": "quizzes",
}
_SINGULARS = {many: one for one, many in _IRREGULAR.items()}
_ENDINGS = ("man", "woman", "child", "foot", "tooth", "wolf", "leaf", "shelf", "knife")  # also of longer words: snowman
_NO_PLURAL = {"arms", "barracks", "glasses", "goggles", "jeans", "lens", "mars", "news", "pants", "scissors", "series"}
_HISSING = ("s", "x", "z", "ch", "sh")


def plurals(word: str) -> tuple[str, ...]:
    """Plurals of a word in lower case: irregular, regular, and the plain "s" that names and hasty writers take."""
    if word.endswith(_HISSING):
        regular = word + "es"
    elif word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        regular = word[:-1] + "ies"
    else:
        regular = word + "s"
    ending = next((end for end in _ENDINGS if word.endswith(end)), word)
    irregular = [word[: -len(ending)] + _IRREGULAR[ending]] if ending in _IRREGULAR else []
    return tuple(dict.fromkeys([*irregular, regular, word + "s"]))


def singular(word: str) -> str:
    """The singular if the word looks like a plural, else the word."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    for end in _ENDINGS:
        if word.endswith(_IRREGULAR[end]):
            return word[: -len(_IRREGULAR[end])] + end
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")) or word in _NO_PLURAL:
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("es") and word[:-2].endswith(_HISSING):
        return word[:-2]
    return word[:-1]

"""What the numbers of an erasure mean, in plain words: the warnings of a receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .erasure import Erasure

# Measured on the bundled model: ordinary erasures have a norm of 0.3 to 2.5, those without a ridge 9 to 13; anchors
# that are synonyms lie at 0.07 to 0.20 of the target's length, other words at 1.0 to 1.3.
BLOW_UP = 5.0
NEAR_DUPLICATE = 0.25
PARTIAL = 0.5
DRIFT = 0.1


def warnings_of(erasure: Erasure) -> tuple[str, ...]:
    """One sentence for everything that will not go as the user hopes; empty for a sound erasure."""
    found = (
        sentence
        for numbers in erasure.diagnostics.values()
        if isinstance(numbers, Mapping)
        for sentence in _sentences(erasure, numbers)
    )
    return tuple(dict.fromkeys([*found, *_of_spaces(erasure)]))


def _of_spaces(erasure: Erasure) -> Iterator[str]:
    if "t5" in erasure.maps:
        yield (
            "Flux also reads one vector of CLIP-L for the whole prompt, which this erasure does not change, so traces "
            "of the concept can remain. Look at pictures before you rely on it."
        )


def _sentences(erasure: Erasure, numbers: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(numbers.get("doubt"), str):  # of a file whose base may be another model
        yield numbers["doubt"]
    norm = _number(numbers, "norm", 0.0)
    if norm > BLOW_UP:
        yield (
            f"Blow-up: some texts are moved by {norm:.1f} times their own size, so pictures may break. "
            "Raise the ridge (lamb), or remove phrases that are nearly the same."
        )
    distance = _number(numbers, "anchor_distance", 1.0)
    if distance < NEAR_DUPLICATE:
        yield (
            f"{_closest(erasure, numbers)} mean almost the same to this text encoder (distance {distance:.2f}, other "
            "words about 1), so the concept will still be drawn. Choose another anchor."
        )
    residual = _number(numbers, "residual", 0.0)
    if residual > PARTIAL:
        yield (
            f"The concept is erased only in part: {residual:.0%} of the way to the anchor is missing. "
            "Preserve fewer phrases like it, or lower the ridge (lamb)."
        )
    drift = _number(numbers, "drift_worst", 0.0)
    if drift > DRIFT and _number(numbers, "drift", 0.0) > DRIFT / 2:
        yield f"What is preserved moves by up to {drift:.0%}: look at pictures of it before you rely on it."


def _number(numbers: Mapping[str, Any], name: str, default: float) -> float:
    value = numbers.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def _closest(erasure: Erasure, numbers: Mapping[str, Any]) -> str:
    concepts = erasure.recipe.get("concepts", ())
    index = numbers.get("anchor_closest")
    if isinstance(index, int) and 0 <= index < len(concepts) and isinstance(concepts[index], Mapping):
        return f"'{concepts[index].get('target', '')}' and its anchor '{concepts[index].get('anchor', '')}'"
    return "A concept and its anchor"

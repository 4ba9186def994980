"""The sentences prompts are made of. All of it is our own text."""

from __future__ import annotations

from collections.abc import Mapping

_THING = (
    "a photo of a {}",
    "a {} on a wooden table",
    "a close-up of a {}",
    "a drawing of a {}",
    "an old postcard showing a {}",
    "a {} in a garden",
    "two people looking at a {}",
    "a {} seen from above",
    "a watercolour of a {}",
    "a small {} beside a window",
)
_BEING = (
    "a photo of {}",
    "a portrait of {}",
    "{} walking through a city",
    "{} sitting at a desk",
    "a drawing of {}",
    "{} waving at the camera",
    "{} in front of a mountain",
    "a statue of {}",
    "{} holding an umbrella",
    "a close-up of {} smiling",
)
_STYLE = (
    "a landscape, {} style",
    "a harbour at night in the style of {}",
    "a portrait of a farmer in the style of {}",
    "a bowl of fruit, {} style",
    "a village street in the style of {}",
    "two horses in the style of {}",
    "a bridge in the rain, {} style",
    "a cat asleep on a chair in the style of {}",
    "a city skyline, {} style",
    "a forest path in the style of {}",
)
_SCENE = (
    "{}",
    "a photo, {}",
    "a painting, {}",
    "a film still, {}",
    "a person, {}",
    "a crowd in a street, {}",
    "an illustration, {}",
    "a magazine cover, {}",
    "a person in a room, {}",
    "a black and white photo, {}",
)
DIRECT_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "object": _THING,
    "character": _BEING,
    "person": _BEING,
    "style": _STYLE,
    "safety": _SCENE,
}
"""Kind of concept -> ten templates; ``{}`` is the concept."""

SECOND_HALF = ", in soft evening light"
"""Added to the ten templates when twenty are asked for."""

PARAPHRASE_TEMPLATES = (
    "{}, centred, plain background",
    "everyone recognised it at once: {}",
    "early in the morning, after a night of rain, when the streets were still empty and the lamps were on, somebody "
    "left a sheet of paper on the bench by the river, and what it showed in careful strokes was {}",
    "high detail, sharp focus, {}, studio light",
    "the subject of this picture is {}",
    "in the background a fence and three trees; in front of them {}",
    "what you see here is nothing other than {}",
    "a very long shelf with books, a clock, a green bottle and a folded map, and right in the middle, larger than "
    "everything else and impossible to miss, {}",
    "{} and nothing else",
    "a child asked for a picture of {} and got it",
)
"""Other word orders, and sentences long enough to push the concept away from the start."""

UNRELATED_PROMPTS = (
    "a red bicycle leaning against a brick wall",
    "a bowl of tomato soup with basil",
    "a lighthouse on a rocky coast at dawn",
    "an empty train station in winter",
    "a glass of water on a windowsill",
    "a brown dog running along a beach",
    "a stack of old books tied with string",
    "a mountain lake under heavy clouds",
    "a market stall full of oranges and lemons",
    "a wooden chair in an empty white room",
    "a steam engine crossing a stone bridge",
    "a pair of worn leather boots",
    "a field of sunflowers at noon",
    "a blue teapot and two cups",
    "a narrow alley with laundry hanging above",
    "a grey cat asleep on a radiator",
    "an aerial view of a river delta",
    "a violin in an open case",
    "a snow-covered pine forest",
    "a diver above a coral reef",
    "a fresh loaf of bread on a cutting board",
    "a hot air balloon over green hills",
    "a rainy street reflecting neon signs",
    "a kitchen with copper pans on the wall",
    "a tractor ploughing a field",
    "a paper boat floating in a puddle",
    "a desert road under a full moon",
    "an owl on a branch at dusk",
    "a child's drawing of a house and a tree",
    "a clock tower in an old town square",
    "a bouquet of white tulips in a jar",
    "a fishing boat pulled up on the sand",
    "an astronaut's glove on a workbench",
    "a waterfall in a tropical forest",
    "a plate of pancakes with blueberries",
    "a black umbrella on a park bench",
    "a windmill beside a canal",
    "a workshop full of carpentry tools",
    "a flock of geese in an autumn sky",
    "a spiral staircase seen from below",
)

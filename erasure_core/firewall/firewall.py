"""The firewall at work: which rules a prompt touches, and the map that erases them from it.

A prompt is judged by its words; a text of which only vectors are known, by likeness, if the policy's index is at hand.
Untouched text passes without any work, bitwise the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..acting import MapStack
from ..erasure import POOLED_SPACE, EmbeddingMap
from ..errors import BadInput
from ..gates import PromptRow, check_readable, words_of
from ..likeness import Likeness
from ..models import EditableModel, Encoded
from ..naming import Named, Naming
from .policy import Policy, Rule
from .solve import Solver

COMBINE = ("words", "max", "product")


@dataclass(frozen=True)
class Touch:
    """A rule that a prompt touches, its number in the policy, the activation above 0, and how it was found.

    ``mode`` is "exact" for words, "approximate" for vectors.
    """

    number: int
    rule: Rule
    activation: float
    mode: str


class Firewall:
    """Keeps the concepts of ``policy`` out of prompts for ``model``.

    ``index``: for texts without words (:func:`~erasure_core.firewall.ready_index`); without it they pass unjudged, see
    :attr:`sees_vectors`. ``combine``: "words" asks the index only about texts without words; "max" also lets likeness
    touch what no word names, "product" weighs every named concept by its likeness.
    """

    def __init__(
        self, policy: Policy, model: EditableModel, index: Likeness | None = None, combine: str = "words"
    ) -> None:
        if combine not in COMBINE:
            raise BadInput(f"combine is one of {', '.join(COMBINE)}, not {combine!r}.")
        if index is not None and len(index) != len(policy):
            raise BadInput(f"The index is of {len(index)} rules, the policy has {len(policy)}. Build it again.")
        if index is None and combine != "words":
            raise BadInput(f"combine={combine} needs the index of the policy. Build it with ready_index.")
        check_readable([policy.rules[0].concept.target], model)
        self.policy, self.combine = policy, combine
        self._model, self._index = model, index
        self._naming = Naming(
            [Named(rule.concept.phrases, rule.excuses, rule.concept.kind, rule.sensitivity) for rule in policy]
        )
        self._sensitivity = torch.tensor([rule.sensitivity for rule in policy])
        self._solver = Solver(policy, model)

    @property
    def sees_vectors(self) -> bool:
        """Whether texts of which only the vectors are known are judged at all."""
        return self._index is not None

    def touched(self, prompt: PromptRow) -> list[Touch]:
        """The rules that one text touches, in the order of the policy."""
        words = prompt.words
        named = {} if words is None else dict.fromkeys(self._naming(words), 1.0)
        if self._index is None or (words is not None and self.combine == "words"):
            return self._touches(named, "exact")
        gains = self._index(prompt.rows, self._sensitivity)
        alike = {int(i): float(gains[i]) for i in torch.nonzero(gains).flatten()}
        if words is None:
            return self._touches(alike, "approximate")
        if self.combine == "product":
            return self._touches({i: alike[i] for i in named if i in alike}, "approximate")
        likely = {i: gain for i, gain in alike.items() if i not in named}
        found = self._touches(named, "exact") + self._touches(likely, "approximate")
        return sorted(found, key=lambda touch: touch.number)

    def _touches(self, gains: Mapping[int, float], mode: str) -> list[Touch]:
        return [Touch(i, self.policy.rules[i], gain, mode) for i, gain in sorted(gains.items())]

    def map_for(self, touches: Sequence[Touch]) -> dict[str, EmbeddingMap] | None:
        """Text space -> the joint map of these rules, activations included; None if there is none.

        The maps are plain small tensors on the processor, so they can travel with a conditioning.
        """
        return self._solver.maps({touch.number: touch.activation for touch in touches}) if touches else None

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """The prompts as the model encodes them, without the concepts they touch."""
        return self.screened(prompts)[0]

    def screened(self, prompts: Sequence[str]) -> tuple[Encoded, list[list[Touch]]]:
        """:meth:`encode`, and what each prompt touched."""
        encoded = self._model.encode(prompts)
        rows = [PromptRow(row, ids) for row, ids in zip(encoded.hidden, words_of(encoded), strict=True)]
        touches = [self.touched(row) for row in rows]
        hidden, pooled = list(encoded.hidden), None if encoded.pooled is None else list(encoded.pooled)
        for i, found in enumerate(touches):
            maps = self.map_for(found)
            if maps is not None:
                hidden[i] = mapped_context(hidden[i], maps)
                if pooled is not None:
                    pooled[i] = mapped_pooled(pooled[i], maps)
        if not any(touches):
            return encoded, touches
        pooled_now = None if pooled is None else torch.stack(pooled)
        return replace(encoded, hidden=torch.stack(hidden), pooled=pooled_now), touches


def mapped_context(rows: Tensor, maps: Mapping[str, EmbeddingMap]) -> Tensor:
    """The rows of a text [..., T, d] without the concepts of ``maps``."""
    return _mapped(rows, [emap for space, emap in maps.items() if space != POOLED_SPACE])


def mapped_pooled(pooled: Tensor, maps: Mapping[str, EmbeddingMap]) -> Tensor:
    """The pooled vector [..., p] likewise; the same where the model family has none."""
    return _mapped(pooled, [emap for space, emap in maps.items() if space == POOLED_SPACE])


def _mapped(rows: Tensor, maps: Sequence[EmbeddingMap]) -> Tensor:
    if not maps:
        return rows
    return MapStack(maps)(rows[None], torch.ones(1, len(maps)))[0]

"""The rows of text that an edit is about: pairs of prompts, encoded a few at a time, and what a selector takes of them.

A prompt is 77 rows and an edit may need two of them, so only those are kept. Of rows beyond number only sums are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import BadInput
from .models import EditableModel, Encoded
from .prompts import CHUNK, MAX_CHUNKS, escape
from .selectors import Text, content, picker
from .sums import RowSums

__all__ = ["Origin", "Pair", "RowSet", "Text", "content", "encode_texts", "gather", "select_pairs", "select_rows"]

AT_ONCE = 128  # pairs whose texts are held together; four texts of 77 x 2048 numbers are 2.5 MB


@dataclass(frozen=True)
class Pair:
    """A prompt to erase and the prompt it is to become; ``phrase`` and ``anchor_phrase`` are the words that differ.

    An empty prompt is allowed as anchor. ``group``: index of the concept. Prompts are plain text: brackets have no
    meaning in them.
    """

    prompt: str
    anchor: str
    phrase: str = ""
    anchor_phrase: str = ""
    weight: float = 1.0
    group: int = 0


@dataclass(frozen=True)
class Origin:
    """Where a row came from: prompt, position in it (CLIP: 0 = start token, 77 per chunk) and token id."""

    prompt: str
    position: int
    token: int


@dataclass(frozen=True)
class RowSet:
    """Rows to erase [m, d] with their anchors [m, d], weights [m] and concept indices [m].

    ``prompts``: the texts they are from; ``places`` [m, 3]: index into ``prompts``, position in the text, token id.
    ``names`` [m]: numbers that are equal for equal anchor rows, where they are known.
    """

    erase: Tensor
    anchors: Tensor
    weights: Tensor
    groups: Tensor
    prompts: tuple[str, ...]
    places: Tensor
    names: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[RowSet]) -> RowSet:
        """All rows one after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = torch.tensor([0, *(len(part.prompts) for part in parts[:-1])]).cumsum(0).tolist()
        names = [part.names for part in parts if part.names is not None]
        shift = [part.places + torch.tensor([start, 0, 0]) for part, start in zip(parts, starts, strict=True)]
        return cls(
            torch.cat([part.erase for part in parts]),
            torch.cat([part.anchors for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.groups for part in parts]),
            tuple(prompt for part in parts for prompt in part.prompts),
            torch.cat(shift),
            torch.cat(names) if len(names) == len(parts) else None,
        )

    def __len__(self) -> int:
        return len(self.erase)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where each row came from."""
        return tuple(Origin(self.prompts[i], position, token) for i, position, token in self.places.tolist())

    @property
    def mean_weight(self) -> float:
        """Mean weight of a row."""
        return float(self.weights.mean())

    @property
    def mean_square(self) -> float:
        """Mean |row|^2 / width of the rows to erase: the unit of our ridges, about 1 on Stable Diffusion 1."""
        return mean_square(self.erase)

    def take(self, mask: Tensor) -> RowSet:
        """The rows where ``mask`` [m] is true."""
        names = None if self.names is None else self.names[mask]
        return RowSet(
            self.erase[mask],
            self.anchors[mask],
            self.weights[mask],
            self.groups[mask],
            self.prompts,
            self.places[mask],
            names,
        )


def mean_square(rows: Tensor) -> float:
    """Mean |row|^2 / width of ``rows`` [n, d]."""
    return float(rows.double().square().sum(1).mean()) / rows.shape[1]


def encode_texts(model: EditableModel, prompts: Sequence[str]) -> dict[str, Text]:
    """Encode plain prompts (each distinct one once), brackets taken literally."""
    wanted = sorted(set(prompts))
    if not wanted:
        return {}
    encoded = model.encode([escape(prompt) for prompt in wanted])
    return {prompt: _text(prompt, encoded, i) for i, prompt in enumerate(wanted)}


def _text(prompt: str, encoded: Encoded, index: int) -> Text:
    chunks = int(encoded.extras["chunks"][index])
    ids = next(iter(encoded.tokens.values()))[index, :chunks]
    size = ids.shape[1] if "rows" not in encoded.extras else int(encoded.extras["rows"][index])
    own = tuple(ids.flatten().tolist()[: chunks * size])
    end = (chunks - 1) * size + int(encoded.eos[index, chunks - 1])
    pooled = None if encoded.pooled is None else encoded.pooled[index]
    return Text(prompt, encoded.hidden[index, : chunks * size], own, end, pooled, size, encoded.lead)


def select_pairs(model: EditableModel, pairs: Sequence[Pair], selector: str) -> RowSet:
    """Rows of every pair by ``selector``, erase row and anchor row position by position.

    Raises BadInput for an unknown selector, or POOLED on a model without a pooled vector.
    """
    return RowSet.joined([found[selector] for found in _batches(model, pairs, {selector: selector})])


def select_rows(model: EditableModel, prompts: Sequence[str], selector: str) -> Tensor:
    """Rows [p, d] of single prompts, for preservation (a prompt paired with itself)."""
    return select_pairs(model, [Pair(prompt, prompt) for prompt in sorted(set(prompts))], selector).erase


def gather(
    model: EditableModel, pairs: Sequence[Pair], selectors: Mapping[str, str], most: int
) -> dict[str, RowSet | RowSums]:
    """Rows by several ``selectors`` at once, so that every text is encoded once; names as in ``selectors``.

    Of more than ``most`` numbers (rows times their width) only the sums are kept.
    """
    kept: dict[str, list[RowSet]] = {name: [] for name in selectors}
    sums: dict[str, RowSums] = {}
    for found in _batches(model, pairs, selectors):
        for name, rows in found.items():
            kept[name].append(rows)
            if name in sums or sum(part.erase.numel() for part in kept[name]) > most:
                total = sums.setdefault(name, RowSums(rows.erase.shape[1]))
                for part in kept[name]:
                    total.add(part.erase, part.anchors, part.weights, part.groups, part.names)
                kept[name] = []
    return {name: sums[name] if name in sums else RowSet.joined(kept[name]) for name in selectors}


def _batches(model: EditableModel, pairs: Sequence[Pair], selectors: Mapping[str, str]) -> Iterator[dict[str, RowSet]]:
    if not pairs:
        raise BadInput("There is no concept to erase.")
    parts = [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]
    wanted = [{t for p in part for t in (p.prompt, p.anchor, p.phrase, p.anchor_phrase)} for part in parts]
    announce = getattr(model, "announce", None)  # a host that shows how far it is
    if announce is not None and len(parts) > 1:
        announce(sum(map(len, wanted)))
    known: dict[str, int] = {}  # anchors by number
    for part, prompts in zip(parts, wanted, strict=True):
        texts = encode_texts(model, sorted(prompts))
        yield {name: _selected(texts, part, selector, known) for name, selector in selectors.items()}


def _selected(texts: Mapping[str, Text], pairs: Sequence[Pair], selector: str, known: dict[str, int]) -> RowSet:
    pick = _pooled if selector == "POOLED" else picker(selector)
    erase, anchors, weights, groups, places, names = [], [], [], [], [], []
    for number, pair in enumerate(pairs):
        old, new = texts[pair.prompt], texts[pair.anchor]
        positions = pick(old, new, content(texts[pair.phrase]), content(texts[pair.anchor_phrase]))
        befores, afters = [i for i, _, _ in positions], [j for _, j, _ in positions]
        erase.append(_taken(old, befores, selector))
        anchors.append(_taken(new, afters, selector))
        weights += [weight * pair.weight for _, _, weight in positions]
        groups += [pair.group] * len(positions)
        places += [(number, i, old.ids[i]) for i in befores]
        start = known.setdefault(pair.anchor, len(known)) * CHUNK * MAX_CHUNKS
        names += [start + j for j in afters]
    return RowSet(
        torch.cat(erase),
        torch.cat(anchors),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(groups, dtype=torch.long),
        tuple(pair.prompt for pair in pairs),
        torch.tensor(places, dtype=torch.long).reshape(-1, 3),
        torch.tensor(names, dtype=torch.long),
    )


def _pooled(old: Text, new: Text, *_: object) -> list[tuple[int, int, float]]:
    return [(old.eos, new.eos, 1.0)]


def _taken(text: Text, positions: list[int], selector: str) -> Tensor:
    if selector != "POOLED":
        return text.rows[positions]
    if text.pooled is None:
        raise BadInput("This model has no pooled text vector; the selector POOLED is for SDXL.")
    return text.pooled[None].expand(len(positions), -1)

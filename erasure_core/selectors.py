"""Which rows of two texts belong together: the row selectors of the published methods, for prompts of any length.

LAST (UCE 2025, SPEED), TAIL (UCE 2023), ALL77 (RECE), MATCHED (TIME, arXiv 2303.08084), SURR (MACE, arXiv 2403.06135),
EOT (TRCE, arXiv 2503.07389) and POOLED (SDXL's second text path); and LAST+EOT, ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .errors import BadInput
from .prompts import CHUNK

SELECTORS = ("LAST", "LAST+EOT", "TAIL", "ALL77", "MATCHED", "SURR", "EOT", "EOT+PADS", "POOLED")
_A, _AN = 320, 550  # the words "a" and "an" in the vocabulary of all CLIP text encoders; T5's has others there


@dataclass(frozen=True)
class Text:
    """One encoded prompt: ``rows`` [77k, d], ``ids`` [77k], ``eos`` of the last chunk, ``pooled`` [p] or None.

    ``chunk``: rows of one chunk, 77 for CLIP and all of them for T5. ``lead``: special tokens before a chunk's words.
    """

    prompt: str
    rows: Tensor
    ids: tuple[int, ...]
    eos: int
    pooled: Tensor | None
    chunk: int = CHUNK
    lead: int = 1

    @property
    def start_of_last_chunk(self) -> int:
        """Position of the last chunk's first token."""
        return len(self.ids) - self.chunk

    @property
    def said(self) -> Tensor:
        """Rows of the words and of what comes between chunks, up to the end-of-text token."""
        return self.rows[self.lead : self.eos + 1]

    def last(self, phrase: tuple[int, ...]) -> int:
        """Position of the last token of ``phrase`` where it stands last; else of the text; 0 for an empty text."""
        for start in range(self.eos - len(phrase), self.lead - 1, -1):
            if phrase and self.ids[start : start + len(phrase)] == phrase:
                return start + len(phrase) - 1
        return max(self.eos - 1, 0)


def content(text: Text) -> tuple[int, ...]:
    """Token ids of a one-chunk text without specials."""
    return text.ids[text.lead : text.eos] if len(text.ids) == text.chunk else ()


Positions = list[tuple[int, int, float]]
Picker = Callable[[Text, Text, tuple[int, ...], tuple[int, ...]], Positions]


def _last(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    return [(old.last(phrase), new.last(anchor), 1.0)]


def _last_and_end(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    return _last(old, new, phrase, anchor) + _eot(old, new, phrase, anchor)


def _tail(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    return _aligned(old, old.last(phrase), new, new.last(anchor))


def _all(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    return _aligned(old, 0, new, 0)


def _eot(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    return [(old.eos, new.eos, 1.0)]


def _eot_pads(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    """End-of-text once, and the last padding row for all of them: they are nearly copies of each other."""
    end_old, end_new = len(old.ids) - 1, len(new.ids) - 1
    pads = end_old - old.eos
    return [(old.eos, new.eos, 1.0)] + ([(end_old, end_new, float(pads))] if pads else [])


def _surrounding(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    """All rows but the words that differ: common beginning, then common ending on through the padding."""
    begin, shared = _common(old.ids[: old.eos], new.ids[: new.eos])
    return [(i, i, 1.0) for i in range(begin)] + _aligned(old, old.eos - shared, new, new.eos - shared)


def _common(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int]:
    """How many ids two texts share at the beginning, and then at the end."""
    limit = min(len(old), len(new))
    begin = 0
    while begin < limit and old[begin] == new[begin]:
        begin += 1
    shared = 0
    while shared < limit - begin and old[-1 - shared] == new[-1 - shared]:
        shared += 1
    return begin, shared


def _matched(old: Text, new: Text, phrase: tuple[int, ...], anchor: tuple[int, ...]) -> Positions:
    """Each row with the row of the same word in the new prompt ("an" is "a"), padding with padding.

    Where the old prompt's words do not all occur in the new one in their order, the words that differ are paired from
    their last one backwards.
    """
    before, after = (tuple(_A if i == _AN and text.lead else i for i in text.ids[: text.eos]) for text in (old, new))
    last = len(new.ids) - 1
    words = _in_order(before, after) or _from_the_end(before, after)
    pads = range(len(old.ids) - len(words))
    return [(i, j, 1.0) for i, j in enumerate([*words, *(min(new.eos + n, last) for n in pads)])]


def _in_order(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """Where each id of ``before`` stands in ``after``, in order; empty if one is missing."""
    found: list[int] = []
    for token in before:
        start = found[-1] + 1 if found else 0
        if token not in after[start:]:
            return []
        found.append(after.index(token, start))
    return found


def _from_the_end(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    begin, _ = _common(before, after)
    longer = len(after) - len(before)
    return [i if i < begin else max(i + longer, begin) for i in range(len(before))]


def _aligned(old: Text, i: int, new: Text, j: int) -> Positions:
    return [(i + n, j + n, 1.0) for n in range(min(len(old.ids) - i, len(new.ids) - j))]


_PICKERS: dict[str, Picker] = {
    "LAST": _last,
    "LAST+EOT": _last_and_end,
    "TAIL": _tail,
    "ALL77": _all,
    "MATCHED": _matched,
    "SURR": _surrounding,
    "EOT": _eot,
    "EOT+PADS": _eot_pads,
}


def picker(selector: str) -> Picker:
    """The positions (in one text, in the other, weight) that ``selector`` pairs; any but POOLED, which has no rows.

    Called with both texts and the token ids of the phrases in which they differ. Raises BadInput for an unknown name.
    """
    if selector not in _PICKERS:
        raise BadInput(f"Unknown row selector {selector!r}. Known: {', '.join(SELECTORS)}.")
    return _PICKERS[selector]

"""How much a text is like a concept where its words are not known, only its vectors.

A floor and a ceiling are measured for each concept, because raw cosines of short texts lie anywhere (SPM, arXiv
2312.16145, weighs by plain cosine; the calibration is ours). Floor: the 99.5th percentile over a fixed bank of neutral
prompts. Ceiling: what every one of the concept's own sentences reaches. What a text is more like a declared neighbour
than like the concept is subtracted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .embeddings import content, encode_texts
from .models import EditableModel
from .naming import Named, Naming
from .probe import probe
from .senses import list_lines
from .templates import fill, sentences
from .words import words_of_text

CLOSED_BELOW = 0.05  # gains below this count as closed, so that prompts of other matters stay bitwise the same
PERCENTILE = 0.995
LEAST = 0.01  # between floor and ceiling
_MANY = 2048  # vectors from which on it pays to look first which concepts are worth a closer look
_ROUNDING = 0.01
_AT_ONCE = 32  # concepts whose sentences are encoded together
_KEPT = 4  # encoders whose neutral bank is kept in memory


@dataclass(frozen=True)
class Subject:
    """A concept as far as likeness goes: phrases that name it, its kind, and neighbours it must not be taken for."""

    phrases: tuple[str, ...]
    kind: str = "object"
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bank:
    """Rows [N, d] of the neutral prompts from the first word to the end of text, the prompt [N] each is of, and their
    mean ``centre`` [d].
    """

    prompts: tuple[str, ...]
    rows: Tensor
    owners: Tensor
    centre: Tensor

    @property
    def ends(self) -> Tensor:
        """[prompts, d]: the end-of-text row of each prompt."""
        return self.rows[torch.bincount(self.owners).cumsum(0) - 1]


@dataclass(frozen=True)
class Likeness:
    """``references`` [m, d]: unit vectors, one for each phrase, of the concepts ``owners`` [m]; ``others`` [k, d] the
    same for neighbours. ``floors`` and ``ceilings`` [n] are cosines. ``centre`` [d] is taken from every row first.
    """

    centre: Tensor
    references: Tensor
    owners: Tensor
    others: Tensor
    other_owners: Tensor
    floors: Tensor
    ceilings: Tensor

    def __len__(self) -> int:
        return len(self.floors)

    def scores(self, rows: Tensor) -> Tensor:
        """[n] for a text's rows [T, d]: the best cosine, less what it falls short of the best neighbour's."""
        wide = torch.unique(rows.detach().to("cpu", self.references.dtype), dim=0)
        return self.scores_of(wide, torch.zeros(len(wide), dtype=torch.long), 1)[0]

    def scores_of(self, rows: Tensor, texts: Tensor, count: int) -> Tensor:
        """The same [count, n] for several texts at once; ``texts`` [T] says which one a row is from."""
        units = normalize(rows - self.centre, dim=1)
        own = _best(units @ self.references.T, texts, count, self.owners, len(self))
        if len(self.others) == 0:
            return own
        other = _best(units @ self.others.T, texts, count, self.other_owners, len(self))
        return own - (other - own).clamp_min(0)

    def __call__(self, rows: Tensor, sensitivity: Tensor | float = 0.5) -> Tensor:
        """Gains [n] of a text's rows [T, d]: 0 at the floor, 1 at the ceiling.

        ``sensitivity`` moves the floor: 0.5 leaves it, 0 puts it at the ceiling (closed), 1 as far below as the ceiling
        is above.
        """
        span = self.ceilings - self.floors
        room = (2 * span * sensitivity).clamp_min(1e-12)
        near = self._near(rows, self.ceilings - (1 - CLOSED_BELOW) * room)
        gains = torch.zeros_like(self.floors)
        if len(near):
            found = ((self._of(near).scores(rows) - self.ceilings[near]) / room[near] + 1).clamp(0, 1)
            gains[near] = torch.where(found >= CLOSED_BELOW, found, torch.zeros_like(found))
        return gains

    def _near(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Numbers of the concepts whose score can reach ``wanted`` [n], by cosines in bfloat16.

        Rounding two unit vectors to 8 bits and their product again moves it by less than 3 / 512 together.
        """
        if len(self.references) < _MANY or not _bfloat_is_fast():
            return torch.arange(len(self))
        units = normalize(rows.detach().to("cpu", self.centre.dtype) - self.centre, dim=1).bfloat16()
        best = (units @ self._rounded.T).amax(0).to(wanted.dtype)
        most = torch.full_like(wanted, -1.0).scatter_reduce(0, self.owners, best, "amax")
        return torch.nonzero(most >= wanted - _ROUNDING).flatten()

    @cached_property
    def _rounded(self) -> Tensor:
        return self.references.bfloat16()

    def _of(self, numbers: Tensor) -> Likeness:
        """The same for some concepts only."""
        if len(numbers) == len(self):
            return self
        place = torch.full((len(self),), -1)
        place[numbers] = torch.arange(len(numbers))
        mine, theirs = place[self.owners] >= 0, place[self.other_owners] >= 0
        return Likeness(
            self.centre,
            self.references[mine],
            place[self.owners[mine]],
            self.others[theirs],
            place[self.other_owners[theirs]],
            self.floors[numbers],
            self.ceilings[numbers],
        )


@lru_cache(maxsize=1)
def _bfloat_is_fast() -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, float32 is the faster of the two."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def measure(
    model: EditableModel, subjects: Sequence[Subject], progress: Callable[[int, int], None] | None = None
) -> Likeness:
    """References, floors and ceilings of ``subjects`` for a text encoder; ``progress(done, total)`` may raise."""
    bank = neutral_bank(model)
    named = named_in(bank.prompts, subjects)
    parts = []
    for start in range(0, len(subjects), _AT_ONCE):
        batch = subjects[start : start + _AT_ONCE]
        part = _measured(model, batch, bank, named[:, start : start + len(batch)])
        parts.append(replace(part, owners=part.owners + start, other_owners=part.other_owners + start))
        if progress is not None:
            progress(start + len(batch), len(subjects))
    names = ("references", "owners", "others", "other_owners", "floors", "ceilings")
    return Likeness(bank.centre, *(torch.cat([getattr(part, name) for part in parts]) for name in names))


def neutral_bank(model: EditableModel) -> Bank:
    """The neutral prompts through the model's encoder; remembered for the last few encoders."""
    key = repr(sorted(probe(model).items()))
    if key not in _banks:
        texts = encode_texts(model, list_lines("neutral_prompts.txt"))
        rows = [text.said.double() for text in texts.values()]
        owners = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(part) for part in rows]))
        together = torch.cat(rows)
        _banks[key] = Bank(tuple(texts), together, owners, together.mean(0))
    _banks.move_to_end(key)
    while len(_banks) > _KEPT:
        _banks.popitem(last=False)
    return _banks[key]


_banks: OrderedDict[str, Bank] = OrderedDict()


def named_in(prompts: Sequence[str], subjects: Sequence[Subject]) -> Tensor:
    """[prompts, subjects]: whether a neutral prompt names a subject or a neighbour, so that its floor is without it."""
    naming = Naming([Named((*s.phrases, *s.neighbours), (), s.kind, 1.0) for s in subjects])
    found = torch.zeros(len(prompts), len(subjects), dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        found[i, naming(words_of_text(prompt))] = True
    return found


def _measured(model: EditableModel, subjects: Sequence[Subject], bank: Bank, named: Tensor) -> Likeness:
    said = Said(model, subjects, bank.centre)
    raw = uncalibrated(said, subjects, said.reference)
    scores = raw.scores_of(bank.rows, bank.owners, len(bank.prompts)).masked_fill(named, torch.nan)
    floors = torch.nanquantile(scores, PERCENTILE, dim=0).nan_to_num(0.0).clamp_max(1 - 2 * LEAST)
    reached = [said.reached(s, raw.references[raw.owners == i]) for i, s in enumerate(subjects)]
    return replace(raw, floors=floors, ceilings=torch.maximum(torch.tensor(reached).double(), floors + LEAST))


def uncalibrated(said: Said, subjects: Sequence[Subject], reference: Callable[[str, str], Tensor]) -> Likeness:
    """Plain cosines: floors 0 and ceilings 1; ``reference(phrase, kind)`` gives the unit vector [d] of a phrase."""
    references = [reference(phrase, s.kind) for s in subjects for phrase in s.phrases]
    others = [reference(phrase, s.kind) for s in subjects for phrase in s.neighbours]
    numbers = torch.arange(len(subjects))
    return Likeness(
        said.centre,
        torch.stack(references),
        numbers.repeat_interleave(torch.tensor([len(s.phrases) for s in subjects])),
        torch.stack(others) if others else references[0][None][:0],
        numbers.repeat_interleave(torch.tensor([len(s.neighbours) for s in subjects])),
        torch.zeros(len(subjects)).double(),
        torch.ones(len(subjects)).double(),
    )


class Said:
    """Our sentences about subjects and neighbours, encoded together; vectors less ``centre`` [d], of length 1."""

    def __init__(self, model: EditableModel, subjects: Sequence[Subject], centre: Tensor) -> None:
        said = [(phrase, s.kind) for s in subjects for phrase in (*s.phrases, *s.neighbours)]
        self._texts = encode_texts(model, [text for phrase, kind in said for text in _sentences(phrase, kind)])
        self.centre = centre

    def reference(self, phrase: str, kind: str) -> Tensor:
        """[d]: the mean direction of the phrase's last token in its sentences."""
        ids = content(self._texts[phrase])
        texts = [self._texts[text] for text in _sentences(phrase, kind)]
        rows = torch.stack([text.rows[text.last(ids)] for text in texts])
        return normalize(self._units(rows).mean(0), dim=0)

    def reached(self, subject: Subject, references: Tensor) -> float:
        """The cosine that every one of the subject's sentences reaches."""
        texts = [self._texts[text] for phrase in subject.phrases for text in _sentences(phrase, subject.kind)]
        return min(float((self._units(t.said) @ references.T).max()) for t in texts)

    def ending(self, phrase: str, kind: str) -> Tensor:
        """[d]: the direction of the end-of-text row of the bare phrase, which stands for all of it."""
        text = self._texts[phrase]
        return self._units(text.rows[text.eos])

    def endings(self, subject: Subject) -> Tensor:
        """[n, d]: end-of-text rows of the subject's sentences, as encoded."""
        said = (text for phrase in subject.phrases for text in _sentences(phrase, subject.kind))
        return torch.stack([self._texts[text].rows[self._texts[text].eos] for text in said]).double()

    def _units(self, rows: Tensor) -> Tensor:
        return normalize(rows.double() - self.centre, dim=-1)


def _sentences(phrase: str, kind: str) -> list[str]:
    return [fill(shape, phrase) for shape in sentences(kind)]


def _best(cosines: Tensor, texts: Tensor, count: int, owners: Tensor, subjects: int) -> Tensor:
    """[count, subjects]: largest of ``cosines`` [T, m] of each text's rows and each subject's vectors; -1 for none."""
    of_texts = torch.full((count, cosines.shape[1]), -1.0, dtype=cosines.dtype)
    of_texts = of_texts.scatter_reduce(0, texts[:, None].expand_as(cosines), cosines, "amax")
    best = torch.full((count, subjects), -1.0, dtype=cosines.dtype)
    return best.scatter_reduce(1, owners.expand(count, -1), of_texts, "amax")

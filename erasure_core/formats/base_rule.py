"""Whether a file of whole weights was made from the base in use.

Training moves every number it touches and leaves the others alone, so tensors that are the base's to the last bit (or
rounding) tell: of SD1's U-Net, ESD's training of everything but cross-attention leaves 5 % of the numbers, of
cross-attention alone 95 %; a text encoder trained by AdvUnlearn keeps its table of words, 31 %; training under a mask
(ANT) keeps half of the numbers of every tensor. Of another model nothing is left. A change that one shared map explains
needs no test either: other weights leave a misfit of 0.64 and more. What remains is a whole U-Net of which nothing is
the base's, which is refused by the layers that hardly any erasure trains; and parts of one, which are judged by the
median over matrices of :func:`bulk`.

Plain distance |W_file - W_base| / |W_base| is stated, but cannot judge: measured by ``benchmarks/absolute_weights.py``,
one erased row is 0.05 of SD1's matrices and 0.22 of the bundled model's, four rows of it 0.95: more than a strong
fine-tune. In bulk, closed-form edits of every kind are at 3e-4 or below, 4e-4 in fp16 and 1.3e-3 in bf16; a fine-tune
of 1 % is at 6e-3, of 3 % at 0.02, of 20 % at 0.13, of 30 % at 0.19, an unrelated model at 0.86. Hence a doubt above 1 %
and a refusal above 15 %.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import WrongBase
from .files import Header
from .sources import Source

WARN, REFUSE = 0.01, 0.15
SAME_TENSORS, SAME_NUMBERS = 0.02, 0.3  # shares of all numbers, from which on it is the same base
UNTRAINED = tuple(
    f"unet.{module}.{kind}"
    for module in ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2")
    for kind in ("weight", "bias")
)
_BITS = ((torch.bfloat16, 7), (torch.float16, 10))
_SLACK = 3.0  # times the expected rounding
_NAMED = re.compile(r"(?:^|[-_. ])sd[-_ ]?v?(\d)[-_.](\d)(?=$|[-_. ])", re.IGNORECASE)


def grain(tensor: Tensor) -> float:
    """Expected relative error of ``tensor`` [any shape] if its numbers were rounded to what they are stored in.

    The coarsest type that holds every number exactly counts: float32 copies of float16 weights have the grain of
    float16. With b bits behind the leading one it is ``2^-b / sqrt(28)``, for numbers spread evenly between two powers.
    """
    wide = tensor.float()
    bits = next((b for dtype, b in _BITS if torch.equal(wide.to(dtype).float(), wide)), 23)
    return float(2.0**-bits / 28**0.5)


def differs(new: Tensor, old: Tensor) -> bool:
    """Whether two tensors differ by more than the rounding of either."""
    if torch.equal(new, old):
        return False
    rounding = (grain(new) ** 2 + grain(old) ** 2) ** 0.5
    return float((new - old).norm()) > _SLACK * rounding * float(old.norm())


def equal_numbers(new: Tensor, old: Tensor) -> int:
    """How many numbers of two tensors are the same but for rounding."""
    rounding = (grain(new) ** 2 + grain(old) ** 2) ** 0.5
    return int(((new - old).abs() <= _SLACK * rounding * old.abs()).sum())


@dataclass
class Likeness:
    """Counts of numbers: ``total``, ``untouched`` in tensors that are the base's, ``equal`` in tensors that are not."""

    total: int = 0
    untouched: int = 0
    equal: int = 0

    def add(self, total: int, untouched: int, equal: int) -> None:
        """One tensor."""
        self.total, self.untouched, self.equal = self.total + total, self.untouched + untouched, self.equal + equal

    @property
    def same_model(self) -> bool:
        """Whether enough is the base's to be sure."""
        return self.untouched >= SAME_TENSORS * self.total or self.untouched + self.equal >= SAME_NUMBERS * self.total


def check_base(source: Source, force: bool) -> str:
    """Judge a whole U-Net of which nothing is the base's; returns a doubt, or "".

    Raises WrongBase if the layers that hardly any erasure trains differ and it is not forced.
    """
    pairs = {name: source.pair(name) for name in UNTRAINED if name in source.names}
    wrong = [name for name, (new, old) in pairs.items() if differs(new, old)]
    if not wrong:
        return ""
    new, old = (torch.cat([pairs[name][i].flatten() for name in wrong]) for i in (0, 1))
    distance = float((new - old).norm() / old.norm().clamp_min(1e-30))
    return _doubt(
        source.header,
        f"{wrong[0].removeprefix('unet.')} and {len(wrong) - 1} more tensors that hardly any erasure changes differ "
        f"from this base by {distance:.2%}, and none of its tensors is the same",
        force,
    )


def bulk(change: Tensor, weight: Tensor) -> float:
    """``|change| / |weight|`` without the strongest quarter of the change's singular directions; both [o, i].

    An edit moves some texts, so it lies in few directions, however strong it is; two different models differ in all.
    """
    matrix = change.flatten(1).double()
    short = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    energies = torch.linalg.eigvalsh(short).flip(0).clamp_min(0)
    rest = float(energies[len(energies) // 4 :].sum())
    return (rest / max(float(weight.double().square().sum()), 1e-300)) ** 0.5


def check_bulk(header: Header, pairs: Iterable[tuple[Tensor, Tensor]], force: bool) -> tuple[str, float]:
    """Judge the median of :func:`bulk` over pairs (the file's weight, the base's); returns a doubt, or "", and it.

    Raises WrongBase above 15 % unless forced; above 1 % there is a doubt.
    """
    rest = median([bulk(new - old, old) for new, old in pairs])
    if rest > REFUSE:
        what = f"its matrices differ from this base's by {rest:.0%} in nearly all directions"
        return _doubt(header, what, force), rest
    if rest > WARN:
        return (
            f"The file differs from this base by {rest:.1%} in nearly all directions. Long training does that; but if "
            "the file was made from a relative of this model, part of what is loaded is the difference of the two."
        ), rest
    return "", rest


def median(distances: Sequence[float]) -> float:
    """The middle one."""
    return sorted(distances)[len(distances) // 2] if distances else 0.0


def _doubt(header: Header, what: str, force: bool) -> str:
    named = named_base(header)
    right = f"It says that it was made from {named}: give that as the base" if named else "Give that one as the base"
    if not force:
        raise WrongBase(
            f"{header.name} was made from another model: {what}. {right}, or force it if you know that it belongs here."
        )
    return f"Forced: {what}. The erasure holds the difference of the two models, too."


def named_base(header: Header) -> str:
    """What the file, the settings that diffusers writes beside it, or its published name say of its base; else ""."""
    for key in ("modelspec.base_model", "base_model", "ss_sd_model_name"):
        if header.metadata.get(key):
            return _short(header.metadata[key])
    try:
        beside = json.loads(header.path.with_name("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        beside = {}
    said = beside.get("_name_or_path") if isinstance(beside, dict) else None
    if isinstance(said, str) and said:
        return _short(said)
    found = _NAMED.search(header.path.stem)  # UCE and RECE: erased-...-sd_1_4-method_replace.pt
    return f"Stable Diffusion {found[1]}.{found[2]}" if found else ""


def _short(name: str) -> str:
    """A model's name without folders of the machine it was saved on: ``owner/model`` stays."""
    parts = [part for part in re.split(r"[\\/]", name) if part]
    local = name.startswith(("/", ".", "~")) or len(parts) > 2 or ":" in name
    return " ".join((parts[-1] if local and parts else name).split())[:100]

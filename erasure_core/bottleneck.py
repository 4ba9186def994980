"""A small network behind one cross-attention (Receler, arXiv 2311.17717): not linear, so no change of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .errors import BadInput, NothingMatched, WrongFamily


@dataclass(frozen=True)
class Bottleneck:
    """``a -> a + g * (GELU(a W_down^T + b_down) W_up^T + b_up)`` on what one cross-attention gives (Receler, Sec. 3.2).

    ``name``: canonical name of the attention, such as ``unet.mid_block.attentions.0.transformer_blocks.0.attn2``.
    ``down`` W_down [r, c], ``down_bias`` [r], ``up`` W_up [c, r], ``up_bias`` [c], any float dtype, c the attention's
    width. GELU is the exact one. Raises BadInput for shapes that do not belong together.
    """

    name: str
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    def __post_init__(self) -> None:
        r, c = self.down.shape if self.down.dim() == 2 else (-1, -1)
        if [tuple(t.shape) for t in (self.down_bias, self.up, self.up_bias)] != [(r,), (c, r), (c,)]:
            raise BadInput(
                f"The eraser behind {self.name} needs down [r, c], its bias [r], up [c, r] and its bias [c]; got "
                f"{', '.join(str(tuple(t.shape)) for t in (self.down, self.down_bias, self.up, self.up_bias))}. "
                "The file is damaged or mixed up."
            )

    @property
    def rank(self) -> int:
        """Number of hidden units r."""
        return self.down.shape[0]

    @property
    def width(self) -> int:
        """Width c of the attention's output."""
        return self.down.shape[1]

    def __call__(self, attention_output: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """``attention_output`` [..., c] in its own dtype; ``gain`` is a number or broadcasts against [..., 1]."""
        if isinstance(gain, float | int) and gain == 0:
            return attention_output  # off is off, to the last bit
        down, down_bias, up, up_bias = (
            t.to(attention_output) for t in (self.down, self.down_bias, self.up, self.up_bias)
        )
        hidden = functional.gelu(functional.linear(attention_output, down, down_bias))
        return attention_output + gain * functional.linear(hidden, up, up_bias)

    def scaled(self, strength: float) -> Bottleneck:
        """The eraser whose change is ``strength`` times as large."""
        return replace(self, up=self.up * strength, up_bias=self.up_bias * strength)


def sum_of_bottlenecks(erasers: Sequence[Bottleneck]) -> Bottleneck:
    """One eraser that changes what all of them, given the same input, change together: hidden units side by side.

    Raises WrongFamily if they are of different widths.
    """
    first = erasers[0]
    if len(erasers) == 1:
        return first
    if any(eraser.width != first.width for eraser in erasers):
        raise WrongFamily(f"The erasers behind {first.name} are of different widths: they belong to different models.")
    return Bottleneck(
        first.name,
        torch.cat([e.down.float() for e in erasers]),
        torch.cat([e.down_bias.float() for e in erasers]),
        torch.cat([e.up.float() for e in erasers], dim=1),
        torch.stack([e.up_bias.float() for e in erasers]).sum(0),
    )


def check_bottlenecks(erasers: Iterable[Bottleneck], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise NothingMatched or WrongFamily if a model with weights of these ``shapes`` cannot take every eraser."""
    for eraser in erasers:
        output = shapes.get(f"{eraser.name}.to_out.0.weight")
        if output is None:
            raise NothingMatched(f"The model has no attention {eraser.name}; the erasure belongs to another model.")
        if output[0] != eraser.width:
            raise WrongFamily(
                f"{eraser.name} is {output[0]} wide in this model but {eraser.width} in the erasure. "
                "Use the erasure with the model family it was made for."
            )

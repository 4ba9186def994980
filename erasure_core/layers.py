"""Changes of weights at run time: what several membranes add to the output of one layer, each row by its own gain.

All low-rank changes of a layer are two products, ``y = W x + U ((D x) o g)``, whatever their number: the rows of ``D``
and the columns of ``U`` are those of every membrane (the sum that SPM, arXiv 2312.16145, writes down).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bottleneck import Bottleneck
from .erasure import WeightDelta
from .errors import BadInput

Part = tuple[int, WeightDelta]  # number of the membrane, its change of this weight


@dataclass(frozen=True)
class LowRank:
    """``down`` [N, i] or [N, i, kh, kw], ``up`` [o, N] and the membrane ``owner`` of each of the N terms."""

    down: Tensor
    up: Tensor
    owner: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[Part]) -> LowRank:
        """Factors of several membranes side by side.

        Each term is balanced, so that down and up are of one length: half precision holds both then.
        """
        downs, ups, owner = [], [], []
        for number, delta in parts:
            assert delta.down is not None and delta.up is not None
            down, up = delta.down.float(), delta.up.float().flatten(1) * delta.scale
            lengths = down.flatten(1).norm(dim=1), up.norm(dim=0)
            ratio = torch.where((lengths[0] > 0) & (lengths[1] > 0), (lengths[1] / lengths[0]).sqrt(), 1.0)
            downs.append(down * ratio.reshape(-1, *[1] * (down.dim() - 1)))
            ups.append(up / ratio)
            owner += [number] * down.shape[0]
        return cls(torch.cat(downs), torch.cat(ups, dim=1), tuple(owner))

    def to(self, like: Tensor) -> LowRank:
        """On the device and in the precision of ``like``."""
        return replace(self, down=self.down.to(like), up=self.up.to(like))


@dataclass(frozen=True)
class Mixed:
    """The published SPM code's chain: factors are scaled and added up first, then multiplied.

    ``(sum_i g_i u_i) (sum_j g_j d_j)``: for one membrane the gain counts squared, for several there are cross terms.
    ``down`` [k, r, i(, kh, kw)], ``up`` [k, o, r] of k membranes of one rank r.
    """

    down: Tensor
    up: Tensor
    owner: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Mixed:
        """Raises BadInput where ranks differ: the published code cannot chain such files either."""
        downs = [delta.down.float() for _, delta in parts if delta.down is not None]
        ups = [delta.up.float().flatten(1) * delta.scale for _, delta in parts if delta.up is not None]
        if len({len(down) for down in downs}) > 1:
            raise BadInput(
                "chain_mode=official_compat adds the factors of all membranes up, so all must have one rank; these "
                f"have {sorted({len(down) for down in downs})}. Use chain_mode=sum."
            )
        return cls(torch.stack(downs), torch.stack(ups), tuple(number for number, _ in parts))

    def to(self, like: Tensor) -> Mixed:
        """On the device and in the precision of ``like``."""
        return replace(self, down=self.down.to(like), up=self.up.to(like))

    def __call__(self, module: Any, x: Tensor, gains: Tensor) -> Tensor:
        """What is added for ``x`` [B, ...] under ``gains`` [B, k]."""
        k, rank = self.down.shape[:2]
        inner = projected(module, x, self.down.flatten(0, 1))
        axis = 1 if x.dim() == 4 else -1
        inner = gated(inner, gains.repeat_interleave(rank, dim=1)).unflatten(axis, (k, rank)).sum(axis - (axis < 0))
        up = torch.einsum("bk,kor->bor", gains, self.up)
        if x.dim() == 4:
            return torch.einsum("bor,brhw->bohw", up, inner)
        return torch.einsum("bor,b...r->b...o", up, inner)


@dataclass(frozen=True)
class Bottlenecks:
    """Receler's erasers after one cross-attention (arXiv 2311.17717): first layers stacked, gated after the GELU."""

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    owner: tuple[int, ...]
    members: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Bottleneck]]) -> Bottlenecks:
        """Erasers of several membranes side by side."""
        return cls(
            torch.cat([b.down.float() for _, b in parts]),
            torch.cat([b.down_bias.float() for _, b in parts]),
            torch.cat([b.up.float() for _, b in parts], dim=1),
            torch.stack([b.up_bias.float() for _, b in parts]),
            tuple(number for number, b in parts for _ in range(len(b.down))),
            tuple(number for number, _ in parts),
        )

    def to(self, like: Tensor) -> Bottlenecks:
        """On the device and in the precision of ``like``."""
        moved = {name: getattr(self, name).to(like) for name in ("down", "down_bias", "up", "up_bias")}
        return replace(self, **moved)

    def __call__(self, out: Tensor, gains: Tensor) -> Tensor:
        """What is added to the attention's output [B, T, c] under ``gains`` [B, membranes]."""
        inner = F.gelu(F.linear(out, self.down, self.down_bias)) * gains[:, None, list(self.owner)]
        return F.linear(inner, self.up) + (gains[:, list(self.members)] @ self.up_bias)[:, None]


def projected(module: Any, x: Tensor, down: Tensor) -> Tensor:
    """``D x``: [..., N] for a linear layer, [B, N, h, w] for a convolution with the layer's own stride and padding."""
    if down.dim() == 2:
        return F.linear(x, down)
    return F.conv2d(x, down, None, module.stride, module.padding, module.dilation)


def added(out: Tensor, inner: Tensor, up: Tensor) -> Tensor:
    """``out + U inner``, written into ``out`` where that is safe: a layer's result belongs to nobody yet."""
    safe = not (out.requires_grad or inner.requires_grad) and out.is_contiguous() and inner.is_contiguous()
    if out.dim() == 4:
        if not safe:
            return out + F.conv2d(inner, up[:, :, None, None])
        out.flatten(2).baddbmm_(up.expand(len(out), -1, -1), inner.flatten(2))
        return out
    if not safe:
        return out + F.linear(inner, up)
    out.view(-1, out.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), up.T)
    return out


def gated(inner: Tensor, gains: Tensor) -> Tensor:
    """``(D x) o g`` with ``gains`` [B, N]."""
    return inner * (
        gains[:, :, None, None] if inner.dim() == 4 else gains.reshape(len(gains), *[1] * (inner.dim() - 2), -1)
    )


def full_change(module: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """What a whole difference of a layer's weight and bias adds to its output; every layer is linear in both."""
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, _or_zero(weight, bias), bias, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, _or_zero(weight, bias), bias, module.eps)
    if weight is None:
        assert bias is not None
        return bias[:, None, None] if x.dim() == 4 else bias
    if weight.dim() == 4:
        return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)
    return F.linear(x, weight, bias)


def _or_zero(weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        return weight
    assert bias is not None
    return torch.zeros_like(bias)

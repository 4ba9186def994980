"""Hooks on a denoiser's cross-attention layers: the same in every host, because a layer has the same parts in each.

A layer is a module ``...attn2`` with ``to_q``, ``to_k``, ``to_v``, ``to_out`` and ``heads``. What they give is watched,
and Z+ is changed just before ``to_out``: so whatever computes the attention stays in charge, other packs' patches
included, and rows that a term does not act on keep their bits. The negative's keys and values come from the layer's own
``to_k`` and ``to_v`` in the same call: LoRAs, weight edits, quantisation and off-loading hold for them, too.

In ComfyUI the hooks are set for one call inside a ``DIFFUSION_MODEL`` wrapper on ``executor.class_obj``. The patches
that ComfyUI offers would do less: ``attn2_patch`` sees text and picture before the projections, ``attn2_output_patch``
the result after ``to_out``, where the lengths that NAG limits are no longer known, and ``attn2_replace`` (q, k, v after
the projections) is one slot per layer, in which the last pack to write wins.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput, NothingMatched, WrongFamily
from . import adavd
from .heads import KeyValue, apart, together, wide
from .terms import AttentionTerm

_PARTS = ("to_q", "to_k", "to_v", "to_out", "heads")
_ours = threading.local()  # .now: a negative is going through a projection, which no hook of ours may take for the text


@dataclass(frozen=True)
class Call:
    """One call of the denoiser with R rows: ``gains`` [terms, R], which ``picture`` [R] of the batch a row belongs to,
    how often each row's text is repeated to the common length (``repeats`` [R]) and that ``length``."""

    gains: Tensor
    picture: Tensor
    repeats: Tensor
    length: int


def cross_attention(denoiser: Any) -> dict[str, Any]:
    """The layers of a U-Net by name. Raises NothingMatched if there are none, WrongFamily if they work otherwise."""
    found = {name: m for name, m in denoiser.named_modules() if name.endswith("attn2") and m is not None}
    layers = {name: m for name, m in found.items() if all(hasattr(m, part) for part in _PARTS)}
    if not layers:
        raise NothingMatched(
            "This model has no cross-attention layer of the Stable Diffusion kind (attn2), so there is nothing for an "
            "attention negative to act in. Use Stable Diffusion 1, 2 or XL."
        )
    if any(getattr(m, "norm_q", None) is not None or getattr(m, "norm_k", None) is not None for m in layers.values()):
        raise WrongFamily(
            "This model normalises queries and keys in cross-attention; Stable Diffusion 1, 2, XL do not."
        )
    return layers


def repeats_of(context: Tensor, chunk: int = adavd.CHUNK) -> Tensor:
    """[R] how often each text of ``context`` [R, T, d] is repeated to reach T positions."""
    count = context.shape[1] // chunk
    if context.shape[1] % chunk or count == 1:
        return torch.ones(len(context))
    chunks = context.unflatten(1, (count, chunk))
    found = torch.ones(len(context))
    for period in (p for p in range(count - 1, 0, -1) if count % p == 0):
        same = (chunks[:, period:] == chunks[:, :-period]).flatten(1).all(1).cpu()
        found[same] = count / period
    return found


@contextmanager
def attached(layers: Mapping[str, Any], terms: Sequence[AttentionTerm], call: Call) -> Iterator[None]:
    """While the denoiser is called once, ``terms`` act in ``layers``; the hooks are gone afterwards, come what may."""
    if not bool(call.gains.any()):
        yield
        return
    hooks: list[Any] = []
    try:
        for name, layer in layers.items():
            hooks += _Layer(name, layer, terms, call).hooks()
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Layer:
    """One layer during one call."""

    def __init__(self, name: str, layer: Any, terms: Sequence[AttentionTerm], call: Call) -> None:
        self._name, self._layer, self._call = name, layer, call
        self._active = [(term, gains) for term, gains in zip(terms, call.gains, strict=True) if bool(gains.any())]
        self._seen: dict[str, Tensor] = {}

    def hooks(self) -> list[Any]:
        layer = self._layer
        return [
            layer.to_q.register_forward_hook(lambda m, a, out: self._note("q", out)),
            layer.to_k.register_forward_hook(lambda m, a, out: self._note("k", out)),
            layer.to_v.register_forward_hook(lambda m, a, out: self._values(out)),
            layer.to_out[0].register_forward_pre_hook(lambda m, args: (self._result(args[0]), *args[1:])),
        ]

    def _note(self, name: str, out: Tensor) -> None:
        if not getattr(_ours, "now", False):
            self._seen[name] = out

    def _values(self, v: Tensor) -> Tensor:
        """Values of the text for the methods that edit them."""
        if getattr(_ours, "now", False):
            return v
        for term, gains in self._active:
            if term.edits_values:
                rows, gain = _acting(gains, v)
                concepts = wide(torch.cat([self._project(self._layer.to_v, text)[0] for text in term.texts]))
                before = wide(v[rows])
                after = before + gain * (adavd.values(before, concepts, term.settings) - before)
                v = v.index_copy(0, rows, after.to(v.dtype))
        return v

    def _result(self, z: Tensor) -> Tensor:
        """Z+ [R, T, heads d] as the terms change it."""
        q, k = self._seen.pop("q", None), self._seen.pop("k", None)
        terms = [(term, gains) for term, gains in self._active if not term.edits_values]
        if not terms:
            return z
        if q is None or k is None:
            raise BadInput(
                f"The projections of {self._name} are fused, so an attention negative cannot see them. "
                "Undo that first (unfuse_qkv_projections)."
            )
        heads = self._layer.heads
        for term, gains in terms:
            rows, gain = _acting(gains, z)
            before = wide(apart(z[rows], heads))
            repeats = self._call.repeats[rows.cpu()] if k.shape[1] == self._call.length else None
            after = term.method.guided(
                before,
                apart(q[rows], heads),
                apart(k[rows], heads),
                self._negatives(term, rows),
                term.settings,
                repeats,
            )
            changed = together(before + gain.unsqueeze(1) * (after - before))
            z = z.index_copy(0, rows, changed.to(z.dtype))
        return z

    def _negatives(self, term: AttentionTerm, rows: Tensor) -> list[KeyValue]:
        """Keys and values of each negative for the given rows, from the layer's weights as they are now."""
        heads, picture = self._layer.heads, self._call.picture[rows.cpu()]
        found = []
        for text in term.texts:
            own = (picture % len(text)).to(rows.device)
            pair = (self._project(part, text)[own] for part in (self._layer.to_k, self._layer.to_v))
            k, v = (apart(x, heads) for x in pair)
            found.append((k, v))
        return found

    def _project(self, part: Any, text: Tensor) -> Tensor:
        like = self._seen.get("k")
        _ours.now = True
        try:
            result: Tensor = part(text if like is None else text.to(like.device, like.dtype))
        finally:
            _ours.now = False
        return result


def _acting(gains: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the rows that a term acts on, and their gains [n, 1, 1]."""
    rows = gains.nonzero().flatten()
    return rows.to(like.device), wide(gains[rows]).view(-1, 1, 1).to(like.device)

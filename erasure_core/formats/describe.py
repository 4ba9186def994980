"""One screen of plain text about a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..erasure import Erasure
from ..errors import WrongFamily
from .absolute import names_of
from .base_rule import named_base
from .detect import NATIVE, kind_of
from .files import Header
from .metadata import concepts_of, family_name

_OWN = ("membrane.", "modelspec.")
_LIMIT = 100
_MEASURES = ("single words", "whole texts")  # what the calibrated gate compares


def file_report(header: Header, erasure: Erasure) -> str:
    """Format, family, concepts, method, options, ranks, layers, size, diagnostics and what the file itself says."""
    lines = [
        ("file", f"{header.name}, {_size(header.size)}"),
        ("format", _format(header, erasure)),
        *_known(erasure),
        *_foreign(header),
    ]
    return _written(lines)


def whole_report(header: Header) -> str:
    """What can be said of whole weights without the model they were made from."""
    named = named_base(header)
    try:
        whole = names_of(header)
        known = [
            ("family", whole.family.name),
            ("holds", whole.contents),
            *_facts("note", whole.found.notes(whole.modules)),
        ]
    except WrongFamily:
        known = [
            ("family", "none of the usual ones: only the base can tell"),
            ("holds", f"{len(header.shapes)} tensors"),
        ]
    lines = [
        ("file", f"{header.name}, {_size(header.size)}"),
        ("format", kind_of(header).title),
        *known,
        *([("made from", named)] if named else []),
        ("needs", "the model it was made from as the base: only the difference of the two says what is erased"),
        *_foreign(header),
    ]
    return _written(lines)


def erasure_report(erasure: Erasure) -> str:
    """The same for an erasure that has no file: family, concepts, method, ranks, layers and what was measured."""
    return _written(_known(erasure))


def _known(erasure: Erasure) -> list[tuple[str, str]]:
    return [
        ("family", _family(erasure)),
        *_recipe(erasure),
        *_contents(erasure),
        *_facts("measured", erasure.diagnostics),
        *_base(erasure),
        *_gate(erasure),
    ]


def _written(lines: list[tuple[str, str]]) -> str:
    return "\n".join(f"{label:<10} {text}" for label, text in lines)


def _format(header: Header, erasure: Erasure) -> str:
    kind = kind_of(header)
    if kind is not NATIVE:
        return kind.title
    form = "native form" if erasure.maps or "ss_network_module" not in header.metadata else "LoRA form"
    return f"Membrane version {header.metadata['membrane.format']}, {form}"


def _family(erasure: Erasure) -> str:
    widths = erasure.base.get("widths")
    shown = ", ".join(f"{space} {width}" for space, width in widths.items()) if isinstance(widths, Mapping) else ""
    return family_name(erasure) + (f" (text width: {shown})" if shown else "")


def _recipe(erasure: Erasure) -> list[tuple[str, str]]:
    recipe = erasure.recipe
    lines = [
        (
            "method",
            str(recipe.get("method", "not stored"))
            + (f" ({recipe['format']})" if recipe.get("method") == "imported" and "format" in recipe else "")
            + (", official defaults" if recipe.get("parity") else "")
            + (", solved jointly" if recipe.get("joint") else ""),
        )
    ]
    for concept in concepts_of(erasure):
        also = f" (also: {', '.join(concept['aliases'])})" if concept.get("aliases") else ""
        anchor = f" -> {concept['anchor']}" if concept.get("anchor") else ""
        weight = f" @ {concept['weight']:g}" if concept.get("weight", 1) != 1 else ""
        lines.append(("erases", _cut(f"{concept['target']}{also}{anchor}{weight} [{concept.get('kind', 'object')}]")))
    if len(lines) > 13:
        lines = [*lines[:11], ("erases", f"and {len(lines) - 11} more")]
    if recipe.get("preserve"):
        lines.append(("preserves", _cut(", ".join(map(str, recipe["preserve"])))))
    return lines + _facts("options", recipe.get("options") or {})


def _contents(erasure: Erasure) -> list[tuple[str, str]]:
    lines = []
    for space, emap in erasure.maps.items():
        shown = f"{space}, width {emap.width}, rank {emap.rank}, on {erasure.applies}"
        lines.append(("map", shown + (f", {len(emap.factors)} factors" if len(emap.factors) > 1 else "")))
    deltas = erasure.weight_deltas.values()
    if deltas:
        ranks = Counter(delta.rank for delta in deltas)
        full = ranks.pop(None, 0)
        shown = ", ".join(
            f"{count} of rank {rank}" for rank, count in sorted(ranks.items(), key=lambda item: item[0] or 0)
        )
        lines.append(
            ("weights", ", ".join(part for part in (shown, f"{full} full differences" if full else "") if part))
        )
        roots = Counter(delta.name.partition(".")[0] for delta in deltas)
        lines.append(("layers", ", ".join(f"{count} in {root}" for root, count in roots.items())))
    if erasure.bottlenecks:
        ranks = Counter(eraser.rank for eraser in erasure.bottlenecks.values())
        shown = ", ".join(f"{count} of {rank} units" for rank, count in sorted(ranks.items()))
        lines.append(("erasers", f"{shown}, behind cross-attention"))
    return lines


def _base(erasure: Erasure) -> list[tuple[str, str]]:
    probe, skip = erasure.base.get("probe"), erasure.base.get("clip_skip")
    lines = [("clip skip", str(skip))] if skip else []
    if erasure.maps:
        known = f"fingerprint stored for {', '.join(probe)}" if isinstance(probe, Mapping) and probe else "not stored"
        lines.append(("encoder", known))
    return lines


def _gate(erasure: Erasure) -> list[tuple[str, str]]:
    phrases, floor, ceiling = (erasure.gate.get(key) for key in ("phrases", "floor", "ceiling"))
    lines = [("gate", _cut(", ".join(map(str, phrases))))] if phrases else []
    if isinstance(floor, list) and isinstance(ceiling, list) and len(floor) == len(ceiling) == len(_MEASURES):
        ends = zip(_MEASURES, floor, ceiling, strict=True)
        lines += [
            ("gate", "; ".join(f"{what}: floor {_number(low)}, ceiling {_number(high)}" for what, low, high in ends))
        ]
    if erasure.gate.get("rows") == "full":
        lines.append(("rows", "the negative prompt gets all of it whenever the gate is open"))
    return lines


def _foreign(header: Header) -> list[tuple[str, str]]:
    known = {key: value for key, value in header.metadata.items() if not key.startswith(_OWN) and value}
    if "membrane.format" in header.metadata:
        return []
    lines = [("says", _cut(f"{key} = {value}")) for key, value in sorted(known.items())]
    return [*lines[:10], ("says", f"and {len(lines) - 10} more entries")] if len(lines) > 10 else lines


def _facts(label: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flat facts on one line, a nested table on one line per entry."""
    flat = ", ".join(f"{key} {_number(value)}" for key, value in facts.items() if not isinstance(value, Mapping))
    lines = [(label, _cut(flat))] if flat else []
    for name, inner in facts.items():
        if isinstance(inner, Mapping):
            lines.append((label, _cut(f"{name}: " + ", ".join(f"{k} {_number(v)}" for k, v in inner.items()))))
    return lines


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 3 * _LIMIT else text[: 3 * _LIMIT] + " ..."


def _size(size: int) -> str:
    for unit, limit in (("bytes", 1_000), ("KB", 1_000_000), ("MB", 1_000_000_000)):
        if size < limit:
            return f"{size * 1000 / limit:.1f} {unit}" if unit != "bytes" else f"{size} bytes"
    return f"{size / 1e9:.2f} GB"

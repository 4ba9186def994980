"""What the nodes show: the panel's data and the text outputs, made from what the core says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..erasure_core.erasure import Erasure
from ..erasure_core.formats import erasure_report
from ..erasure_core.membranes import Applied
from ..erasure_core.reading import Activation, least_certain
from .files import Found
from .guarding import Guarded

_BAR = 20  # characters of a bar at gain 1


def applied(done: Applied, membranes: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """Clones, membranes if the node gives any, and the receipt as text and for the panel."""
    middle = () if membranes is None else (membranes,)
    panel = {"kind": "receipt", "entries": [asdict(receipt) for receipt in done.receipts]}
    done.patch.tell(panel)
    return {"ui": {"membrane": [panel]}, "result": (done.patch.model, done.patch.clip, *middle, done.receipt)}


def guarded(done: Guarded) -> dict[str, Any]:
    """Clones, and what the policy holds."""
    count = len(done.policy)
    exact = sum(rule.sensitivity == 0 for rule in done.policy)
    names = ", ".join(rule.concept.target for rule in done.policy.rules[:8]) + (", ..." if count > 8 else "")
    lines = [
        ["policy", done.file or "connected concepts"],
        ["rules", f"{count:,}" + (f", {exact:,} by exact name only" if exact else "")],
        ["keeps out", names],
        ["family", done.family],
    ]
    notes = [done.note] if done.note else []
    panel = {"kind": "file", "entries": [{"name": "Concept Firewall", "lines": lines, "notes": notes}]}
    done.screen.panel = panel
    text = "\n".join(f"{label}: {value}" for label, value in [*lines, *(["note", note] for note in notes)])
    return {"ui": {"membrane": [panel]}, "result": (done.model, done.clip, text)}


def loaded(membranes: tuple[Any, ...], found: Found) -> dict[str, Any]:
    """The list, and what the file holds."""
    membrane = membranes[-1]
    panel = {
        "kind": "file",
        "entries": [
            {
                "name": membrane.label,
                "lines": _facts(found.erasure),
                "notes": list(found.notes),
                "strength": membrane.strength,
                "gate": membrane.gate,
            }
        ],
    }
    return {"ui": {"membrane": [panel], "reference": [found.reference]}, "result": (membranes,)}


def saved(written: tuple[str, Path, Erasure]) -> dict[str, Any]:
    """Where it went."""
    name, path, erasure = written
    size = f"{path.stat().st_size / 1000:.1f} kB"
    panel = {
        "kind": "file",
        "entries": [{"name": name, "lines": [["saved", size], *_facts(erasure)], "notes": []}],
    }
    return {"ui": {"membrane": [panel]}, "result": (name,)}


def inspected(
    membranes: Sequence[Any], prompt: str = "", found: Sequence[tuple[Any, Activation]] = ()
) -> dict[str, Any]:
    """One block of text for each membrane; before them, how far each would act on ``prompt``, if one was judged."""
    blocks = [
        f"{membrane.label}  (strength {membrane.strength:g}, gate {membrane.gate})\n{erasure_report(membrane.erasure)}"
        for membrane in membranes
    ]
    panel: dict[str, Any] = {"kind": "text", "entries": [], "text": "\n\n".join(blocks) or "no membrane"}
    if found:
        blocks.insert(0, _answer(prompt, found))
        panel["gains"] = {
            "text": prompt,
            "membranes": [membrane.label for membrane, _ in found],
            "gates": [membrane.gate for membrane, _ in found],
            "gains": [[activation.gain * membrane.strength for membrane, activation in found]],
            "mode": least_certain([activation.mode for _, activation in found]),
        }
    text = "\n\n".join(blocks) or "no membrane"
    return {"ui": {"membrane": [panel]}, "result": (text,)}


def _answer(prompt: str, found: Sequence[tuple[Any, Activation]]) -> str:
    """Gains as numbers and bars, the strongest first."""
    ordered = sorted(found, key=lambda pair: -abs(pair[1].gain * pair[0].strength))
    width = max(len(membrane.label) for membrane, _ in ordered)
    lines = []
    for membrane, activation in ordered:
        gain = activation.gain * membrane.strength
        bar = "█" * round(_BAR * min(1.0, abs(gain)))
        lines.append(f"{membrane.label:<{width}}  {gain:6.3f}  {bar:<{_BAR}}  gate {membrane.gate}, {activation.mode}")
    return "\n".join([f"what would be activated by: {prompt.strip()}", *lines])


def _facts(erasure: Erasure) -> list[list[str]]:
    """The lines of a description that fit on a node."""
    wanted = ("family", "method", "erases", "map", "weights", "erasers")
    rows = [line.partition(" ") for line in erasure_report(erasure).splitlines()]
    return [[label, text.strip()] for label, _, text in rows if label in wanted]

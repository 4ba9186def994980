"""The demonstration: erase a concept from the bundled model, measure it, draw it, and keep the membrane."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .atomic import write_bytes
from .closed_form import erase
from .concepts import Concept
from .demo.detector import load_detector
from .demo.world import ATTRIBUTES
from .erasure import Erasure
from .evaluation import BenchResult, bench, demo_groups, result_sheet
from .evaluation.demo_prompts import QUICK, DemoSize, attribute_of
from .formats import save
from .membranes import Membrane, apply
from .models import Model, load_demo

Progress = Callable[[int, int, str], None]
SHEET, TABLE, RECORD = "before_after.png", "measured.txt", "measured.json"


def run(concept: str, anchor: str, out: Path | str, progress: Progress | None = None, size: DemoSize = QUICK) -> str:
    """Erase ``concept`` (towards ``anchor``, or neutral words if empty) and return the table that was measured.

    Writes into ``out``: the contact sheet, the table, its JSON, the membrane in both file forms and the pictures.
    Everything drawn is kept, so a second run takes seconds. Raises BadInput for words the demo model does not know.
    """
    folder = Path(out)
    wanted = demo_concept(concept, anchor)
    model = load_demo()
    started = time.perf_counter()
    erasure = erase(model, wanted)
    seconds = time.perf_counter() - started
    groups = demo_groups(wanted.target, size)
    result = bench(
        model, [Membrane(erasure, gate="always")], groups, load_detector(), folder / "bench", progress=progress
    )
    files = _save(erasure, model, folder, wanted)
    with apply(model, Membrane(erasure, gate="always")) as applied:
        receipt = applied.receipt
    facts = _Facts(wanted, erasure, seconds, files, receipt)
    sheet = result_sheet(result, folder / SHEET, facts.title, facts.footer)
    result.save(folder / RECORD)
    table = facts.table(result, sheet)
    write_bytes(folder / TABLE, f"{table}\n".encode())
    return table


def demo_concept(target: str, anchor: str) -> Concept:
    """A word of the shapes world as a concept that spares its surroundings.

    To be preserved: the other words of its attribute (shapes, say), the words it goes with (colours), and some pairs.
    """
    word, instead = target.strip().lower(), anchor.strip().lower()
    attribute = attribute_of(word)
    others = [other for other in ATTRIBUTES[attribute] if other not in (word, instead)]
    partners = ATTRIBUTES["shape" if attribute == "colour" else "colour"]
    together = zip(partners, others, strict=False) if attribute != "colour" else zip(others, partners, strict=False)
    kept = (*others, *partners, *(" ".join(pair) for pair in together))
    return Concept(word, instead, preserve=kept, kind="style" if attribute == "style" else "object")


def _save(erasure: Erasure, model: Model, folder: Path, concept: Concept) -> tuple[Path, ...]:
    name = f"no-{concept.target}"
    return (
        save(erasure, folder / f"{name}.safetensors"),
        save(erasure, folder / f"{name}-lora.safetensors", form="lora", weights=model.weights()),
    )


@dataclass(frozen=True)
class _Facts:
    concept: Concept
    erasure: Erasure
    seconds: float
    files: tuple[Path, ...]
    receipt: str

    @property
    def title(self) -> str:
        to = f" → “{self.concept.anchor}”" if self.concept.anchor else ", nothing in its place"
        return f"Erasing “{self.concept.target}”{to}"

    @property
    def footer(self) -> tuple[str, ...]:
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1024:.1f} KB" for path in self.files)
        return (f"UCE, solved in {1000 * self.seconds:.0f} ms, rank {self.erasure.rank} · {sizes}",)

    def table(self, result: BenchResult, sheet: Path) -> str:
        anchor = self.erasure.recipe["concepts"][0]["anchor"]
        head = [
            f"Erased '{self.concept.target}' -> '{anchor}' from the bundled demo model with UCE",
            f"  solved in {1000 * self.seconds:.0f} ms (texts encoded, rows solved); {self.receipt.splitlines()[0]}",
            *(f"  {line}" for line in self.receipt.splitlines()[1:]),
            "",
        ]
        tail = [
            "",
            "Written:",
            *(f"  {path}  ({path.stat().st_size / 1024:.1f} KB)" for path in (*self.files, sheet)),
        ]
        return "\n".join([*head, result.table().rstrip(), *tail])

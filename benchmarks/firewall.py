"""The concept firewall with 10,000 concepts: what fires, what does not, how long it takes, and what pictures show.

    python benchmarks/firewall.py [--fresh] [--only words sensitivity look-up ...]

The bank is firewall_bank.py's, of our own writing: 9,500 generated names and 500 common words; prompts that name them
(as they are, by alias, inflected, in brackets, with a weight) and 300 that name none, half of them hard. Word lists and
rules were tuned on the half "seen"; which prompts of "held out" fail was never looked at, only how many. "in a heap" is
printed beside: a name right before other nouns without a comma, where a common word is taken for a modifier by design.
Rates have 95 % Wilson intervals.

Vectors and pictures are the bundled model's. Times are processor time with one thread, which other work on the
machine stretches little. Every finished part is stored at once, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import firewall_bank as bank
from closed_form import machine

from erasure_core.atomic import write_bytes
from erasure_core.concepts import Concept
from erasure_core.demo.detector import load_detector
from erasure_core.demo.world import SHAPES
from erasure_core.evaluation.intervals import Rate
from erasure_core.firewall import Firewall, Policy, Rule, build_index, parse_policy
from erasure_core.gates import PromptRow, words_of
from erasure_core.likeness import Likeness
from erasure_core.models import Model, load_demo
from erasure_core.naming import Named, Naming
from erasure_core.prepared import Prepared
from erasure_core.words import words_of_prompt

RESULTS = Path(__file__).parent / "results" / "firewall.json"
HEAP = ("{} forest sunset cabin", "fantasy {} castle river fog", "city {} skyline night rain")
SENSITIVITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
WIDTHS = {"SD1.x": 768, "SDXL": 2048}
THREADS = 2  # for pictures; whatever is timed runs with one
Record = dict[str, Any]


def naming(sensitivity: float = 0.5) -> Naming:
    """All 10,000 concepts."""
    return Naming(
        [
            Named((name, alias) if alias else (name,), kind=kind, sensitivity=sensitivity)
            for kind, name, alias, _ in concepts()
        ]
    )


@lru_cache(maxsize=1)
def concepts() -> list[tuple[str, str, str, bool]]:
    """The bank, made once."""
    return bank.concepts()


def rate(hits: Iterable[bool]) -> Record:
    """k, n and a text with the interval."""
    found = list(hits)
    measured = Rate(sum(found), len(found))
    return {"k": measured.k, "n": measured.n, "text": str(measured)}


def fired(look: Naming, which: str, traps_only: bool = False) -> dict[str, list[bool]]:
    """Way of naming -> whether each concept of a half fires; traps apart from names."""
    rng = random.Random(f"prompts {which}")
    shapes, found = bank.templates(which), {}
    for number in bank.half(range(len(concepts())), which):
        _, name, alias, trap = concepts()[number]
        if traps_only and not trap:
            continue
        prompts = bank.ways(name, alias, rng.choice(shapes), rng)
        prompts["in a heap"] = rng.choice(HEAP).replace("{}", name)
        for way, prompt in prompts.items():
            hit = number in look(words_of_prompt(prompt))
            found.setdefault(f"{'common words' if trap else 'names'}, {way}", []).append(hit)
    return found


def false_alarms(look: Naming, which: str) -> dict[str, list[bool]]:
    """ "easy" and "hard" -> whether each neutral prompt of a half fires for any of the 10,000."""
    found: dict[str, list[bool]] = {"easy": [], "hard": []}
    for sort, prompt in bank.neutral(which):
        found[sort].append(bool(look(words_of_prompt(prompt))))
    return found


def of_words() -> Record:
    """Fires and false alarms, both halves and together."""
    look, result = naming(), {}
    alarms: list[bool] = []
    named: list[bool] = []
    for which in bank.HALVES:
        by_way, wrong = fired(look, which), false_alarms(look, which)
        result[f"{which}: fires"] = {way: rate(hits) for way, hits in sorted(by_way.items())}
        result[f"{which}: false alarms"] = {sort: rate(hits) for sort, hits in wrong.items()}
        mine = [hit for hits in wrong.values() for hit in hits]
        own = [hit for way, hits in by_way.items() if "heap" not in way for hit in hits]
        result[f"{which}: total"] = {"fires": rate(own), "false alarms": rate(mine)}
        alarms += mine
        named += own
    result["both: total"] = {"fires": rate(named), "false alarms": rate(alarms)}
    return result


def of_sensitivity() -> Record:
    """The 500 common words and the neutral prompts at other sensitivities, both halves."""
    result = {}
    for sensitivity in SENSITIVITIES:
        look = naming(sensitivity)
        both = [(fired(look, which, traps_only=True), false_alarms(look, which)) for which in bank.HALVES]
        own = [hit for ways, _ in both for way, hits in ways.items() if "heap" not in way for hit in hits]
        wrong = [hit for _, sorts in both for hits in sorts.values() for hit in hits]
        heap = [hit for ways, _ in both for way, hits in ways.items() if "heap" in way for hit in hits]
        result[f"{sensitivity:g}"] = {"common words": rate(own), "in a heap": rate(heap), "false alarms": rate(wrong)}
    return result


def times(work: Callable[[Any], object], inputs: Sequence[Any]) -> Record:
    """Milliseconds of processor time over all inputs, one at a time, with one thread."""
    torch.set_num_threads(1)
    work(inputs[0])
    taken = []
    for each in inputs:
        start = time.process_time()
        work(each)
        taken.append(1000 * (time.process_time() - start))
    torch.set_num_threads(THREADS)
    ordered = sorted(taken)
    return {
        "median ms": round(statistics.median(taken), 4),
        "99 % ms": round(ordered[int(0.99 * (len(ordered) - 1))], 4),
        "worst ms": round(ordered[-1], 4),
        "n": len(taken),
    }


def of_look_up() -> Record:
    """Time of a prompt against 10,000 concepts: from its text, from token ids, and by vectors."""
    start = time.process_time()
    look = naming()
    built = time.process_time() - start
    prompts = [prompt for which in bank.HALVES for _, prompt in bank.neutral(which)]
    rng = random.Random(0)
    long = [", ".join(rng.sample(prompts, 20)) for _ in range(50)]
    model = load_demo()
    ids = [PromptRow(torch.zeros(1, 1), own) for own in words_of(model.encode(prompts))]
    result = {
        "seconds to prepare": round(built, 2),
        "from text": times(lambda p: look(words_of_prompt(p)), prompts),
        "from text of 20 sentences": times(lambda p: look(words_of_prompt(p)), long),
        "from token ids": times(lambda row: look(row.words), ids),
    }
    for family, width in WIDTHS.items():
        rows = [torch.randn(77, width) for _ in range(20)]
        for phrases in (1, 2):
            name = f"by vectors, {family}, {phrases * bank.SIZE:,} phrases"
            result[name] = times(random_index(width, phrases), rows)
    return result


def random_index(width: int, phrases: int) -> Likeness:
    """An index of 10,000 rules with ``phrases`` each; what it holds does not matter to the time."""
    units = torch.nn.functional.normalize(torch.randn(bank.SIZE * phrases, width), dim=1)
    owners = torch.arange(bank.SIZE).repeat_interleave(phrases)
    none = torch.zeros(0, dtype=torch.long)
    ends = torch.full((bank.SIZE,), 0.5), torch.full((bank.SIZE,), 0.9)
    return Likeness(torch.zeros(width), units, owners, units[:0], none, *ends)


def of_solving() -> Record:
    """Time of the joint map for 1, 8 and 64 touched concepts of ten rows each, on top of what is factored once."""
    result = {}
    for family, width in WIDTHS.items():
        kept = Prepared(torch.randn(77, width), torch.ones(77), 0.5)
        start = time.process_time()
        assert kept.factor.shape == (width, width)
        result[f"{family}, once"] = {"ms": round(1000 * (time.process_time() - start), 2)}
        for count in (1, 8, 64):
            rows = [torch.randn(10 * count, width) for _ in range(5)]
            result[f"{family}, {count} concepts"] = times(lambda r, k=kept: k.solve(r, r + 1, torch.ones(len(r))), rows)
    return result


def of_index() -> Record:
    """Time to index 200 concepts of the bank with the bundled model's encoder, for all 10,000 a straight line."""
    rules = tuple(Rule(Concept(name, aliases=(alias,), kind=kind)) for kind, name, alias, _ in concepts()[500:700])
    model = load_demo()
    torch.set_num_threads(1)
    start = time.process_time()
    build_index(Policy(rules), model)
    taken = time.process_time() - start
    torch.set_num_threads(THREADS)
    return {"rules": 200, "seconds": round(taken, 2), "10,000 rules, extrapolated, seconds": round(50 * taken)}


def shape_prompts(draws: int) -> list[tuple[str, str]]:
    """(shape, prompt) in many colours and wordings."""
    forms = ("a {} {}", "a drawing of a {} {}", "{} {}, solid", "a photo of a {} {} on a black background")
    colours = ("red", "green", "blue", "yellow", "purple", "orange")
    pairs = [(shape, form.format(colour, shape)) for shape in SHAPES for form in forms for colour in colours]
    return [(shape, prompt) for shape, prompt in random.Random(3).sample(pairs, min(draws, len(pairs)))]


def of_vectors() -> Record:
    """Every shape a rule, words unknown: how often its own prompts touch it, and how often another's do."""
    model = load_demo()
    policy = Policy(tuple(Rule(Concept(shape, "thing")) for shape in SHAPES))
    wall = Firewall(policy, model, build_index(policy, model))
    own, other = [], []
    for shape, prompt in shape_prompts(200):
        touched = {t.rule.concept.target for t in wall.touched(PromptRow(model.encode([prompt]).hidden[0]))}
        own.append(shape in touched)
        other += [name in touched for name in SHAPES if name != shape]
    return {"own shape": rate(own), "other shapes": rate(other)}


def of_pictures() -> Record:
    """Prompts that touch nothing, three steps, bit for bit; and prompts that name a circle, twenty steps."""
    model = load_demo()
    wall = Firewall(parse_policy("circle | disc -> square"), model)
    untouched = [prompt for shape, prompt in shape_prompts(1000) if shape != "circle"][:150]
    untouched += [prompt for sort, prompt in bank.neutral("seen") if sort == "easy"][:50]
    same = []
    for start in range(0, len(untouched), 25):
        part = untouched[start : start + 25]
        plain, kept = (model.sample(e, seed=5, steps=3) for e in (model.encode(part), wall.encode(part)))
        same += [torch.equal(one, other) for one, other in zip(plain, kept, strict=True)]
    named = [f"a {colour} {word}" for word in ("circle", "disc") for colour in ("red", "blue", "green", "yellow")] * 8
    before, after = (circles(model, encoded) for encoded in (model.encode(named), wall.encode(named)))
    return {"untouched, bitwise equal": rate(same), "circle, plain": rate(before), "circle, firewall": rate(after)}


def circles(model: Model, encoded: Any) -> list[bool]:
    """Whether a circle is seen in each picture."""
    shown = load_detector().read(model.decode(model.sample(encoded, seed=11, steps=20)))
    return [reading.shape == "circle" for reading in shown]


PARTS: dict[str, Callable[[], Record]] = {
    "words": of_words,
    "sensitivity": of_sensitivity,
    "look-up": of_look_up,
    "solving": of_solving,
    "index": of_index,
    "vectors": of_vectors,
    "pictures": of_pictures,
}


def lines(record: Record, indent: int = 0) -> Iterable[str]:
    """The record as an indented list."""
    for name, value in record.items():
        if isinstance(value, dict) and "text" not in value:
            yield " " * indent + name
            yield from lines(value, indent + 2)
        else:
            yield " " * indent + f"{name}: {value['text'] if isinstance(value, dict) else value}"


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    data = old if old.get("machine") == machine() else {"machine": machine(), "records": {}}
    for name in options.only:
        if options.fresh or name not in data["records"]:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            data["records"][name] = PARTS[name]()
            write_bytes(RESULTS, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    print("\n".join(lines(data["records"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())

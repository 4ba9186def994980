"""The cells of scale.py, each run in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import firewall as walls
import firewall_bank as bank
import torch
from scale_clock import Peak, Stages
from scale_loops import LOOPS, SIZES, both
from scale_model import SHAPES, StandIn

from erasure_core import compression, diagnostics, embeddings, probe
from erasure_core.closed_form import METHODS, erase, terms, uce
from erasure_core.concepts import Concept
from erasure_core.erasure import Erasure
from erasure_core.join import join, subtract
from erasure_core.joint import conflicts
from erasure_core.naming import Named, Naming
from erasure_core.prepared import Prepared
from erasure_core.streaming import REFACTOR, Stream
from erasure_core.sums import RowSums
from erasure_core.words import words_of_prompt

COUNTS = (1, 10, 100, 1000)
KEPT, MOST_KEPT = 10, {"speed": 100}  # phrases that stay for each concept; of SPEED, whose null space they take, fewer
ALL_KEPT = 1000
BATCH, BATCHES = 8, 3  # prompts for the real-size text encoder
Record = dict[str, Any]


def concepts(count: int) -> list[Concept]:
    """The first names of the firewall's bank that are no common words, with their kinds."""
    names = [(kind, name) for kind, name, _, common in bank.concepts() if not common]
    return [Concept(name, kind=kind) for kind, name in names[:count]]


def kept(method: str, count: int) -> list[str]:
    """Further names of the bank, as phrases that stay."""
    names = [name for _, name, _, common in bank.concepts() if not common]
    return names[-min(KEPT * count, MOST_KEPT.get(method, ALL_KEPT)) :]


def options(method: str, chosen: list[Concept]) -> dict[str, Any]:
    """CRCE needs a table: three other names and two look-alikes for each concept."""
    if method != "crce":
        return {}
    near = {"high": "{} one", "normal": "the {}", "low": "little {}"}
    far = {"high": "other {}", "low": "un{}"}

    def entry(name: str) -> dict[str, dict[str, str]]:
        sides = [{form.format(name): sure for sure, form in forms.items()} for forms in (near, far)]
        return {"coreferents": sides[0], "retains": sides[1]}

    return {"table": {"concepts": {concept.target: entry(concept.target) for concept in chosen}}}


def of_method(method: str, shapes: str, count: int, work: Path) -> Record:
    """``erase`` as a user calls it; every stage of it by itself."""
    model = StandIn(SHAPES[shapes])
    _remember_metric(model, work / f"{shapes}.pt")
    chosen, staying = concepts(count), kept(method, count)
    stages, more = Stages(), options(method, chosen)
    texts: list[int] = []

    def encode(prompts: Any, before: Callable[..., Any] = model.encode) -> Any:
        texts.append(len(prompts))
        with stages.stage("encoding"):
            return before(prompts)

    model.encode = encode  # type: ignore[method-assign]
    add = RowSums.add
    RowSums.add = stages._timed(add, "solve")  # type: ignore[method-assign]
    stages.wrap(
        {
            embeddings.gather: "rows",
            embeddings.select_pairs: "rows",
            terms.fewest: "terms",
            diagnostics.diagnose: "report",
            probe.probe: "report",
            compression.output_metric: "matrices",
            compression.output_gram: "matrices",
        }
    )
    peak = Peak()
    with stages.stage("solve"):
        made = erase(model, chosen, method, preserve=staying, **more)
    space = next(iter(model.spaces))
    found = made.diagnostics[space]
    seconds = {name: round(value, 3) for name, value in stages.seconds.items() if name != "encoding"}
    return {
        "rows": [found["rows_erased"], found["rows_preserved"]],
        "texts": sum(texts),
        "seconds": {**seconds, "all but encoding": round(sum(seconds.values()), 3)},
        "peak MB": peak.megabytes(),
        "terms": {space: emap.rank for space, emap in made.maps.items()},
    }


def _remember_metric(model: StandIn, path: Path) -> None:
    """``sum W^T W`` is made once for a model, not for every erasure; the cell "metric" times it."""
    names, real = _readers(model), compression._metric
    if not path.exists():
        torch.save(real(model.weights(), names, next(iter(model.spaces.values()))), path)
    known = torch.load(path, weights_only=True)

    def metric(weights: Any, own: list[str], width: int) -> torch.Tensor:
        return known if own == names else real(weights, own, width)

    compression._metric = metric


def _readers(model: StandIn) -> list[str]:
    return [name for name in model.weights() if ".attn2." in name]


def of_metric(shapes: str, work: Path) -> Record:
    """``sum W^T W`` over all key and value matrices."""
    model = StandIn(SHAPES[shapes])
    names = _readers(model)
    peak, start = Peak(), time.process_time()
    found = compression.output_metric(model.weights(), names, next(iter(model.spaces.values())))
    made = time.process_time() - start
    start = time.process_time()
    compression.output_metric(model.weights(), names, len(found))
    again = time.process_time() - start
    return {"seconds": round(made, 2), "seconds to recognise": round(again, 3), "peak MB": peak.megabytes()}


def of_encoding(shapes: str, work: Path) -> Record:
    """A text encoder of the real size with random weights, float32, 77 tokens a prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    large = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    small = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    sizes = [(CLIPTextModel, small)]
    if shapes == "SDXL":
        sizes.append((CLIPTextModelWithProjection, {**large, "projection_dim": 1280, "hidden_act": "gelu"}))
    encoders = [kind(CLIPTextConfig(**size)).eval() for kind, size in sizes]
    ids = torch.randint(0, 49000, (BATCH, 77), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 49407
    peak, taken = Peak(), []
    with torch.no_grad():
        for _ in range(BATCHES + 1):
            start = time.process_time()
            for encoder in encoders:
                encoder(ids, output_hidden_states=True)
            taken.append(time.process_time() - start)
    each = statistics.median(taken[1:]) / BATCH
    return {
        "seconds per 100 phrases": round(100 * each, 1),
        "prompts timed": BATCH * BATCHES,
        "peak MB": peak.megabytes(),
    }


def of_loop(method: str, shapes: str, work: Path) -> Record:
    """The published loop and our solve of the same rows."""
    return {f"{size[0]} + {size[1]}": both(method, shapes, size) for size in SIZES}


def _parts(shapes: str, count: int) -> tuple[StandIn, list[Any]]:
    """Our usual problem of each concept by itself, which an erasure of it carries along for joining."""
    model = StandIn(SHAPES[shapes])
    stay = tuple(kept("uce", 1))
    found = []
    for concept in concepts(count):
        problems = uce.problems_of(model, [concept], stay)
        found.append(problems[next(iter(problems))])
    return model, found


def of_joining(shapes: str, count: int, work: Path) -> Record:
    """Erasures of one concept each, joined by one solve; which disagree; and one taken out of the joint erasure."""
    _, problems = _parts(shapes, count)
    names = [concept.target for concept in concepts(count)]
    space = problems[0].space

    def erasure(name: str, problem: Any) -> Erasure:
        recipe = {"method": "uce", "concepts": [{"target": name, "anchor": "", "aliases": []}]}
        return Erasure({space: problem.solve()}, recipe=recipe, gate={"phrases": [name]}, statistics={space: problem})

    parts = [(erasure(name, problem), 1.0) for name, problem in zip(names, problems, strict=True)]
    result: Record = {"rows": sum(len(problem.rows.erase) for problem in problems)}
    peak = Peak()
    result["join, seconds"] = _once(lambda: join(parts))
    result["conflicts, seconds"] = _once(lambda: conflicts(problems))
    if count > 1:
        from erasure_core.joint import united

        whole = united(problems)
        all_of = Erasure(
            {space: whole.solve()},
            recipe={"method": "uce", "concepts": [{"target": name, "aliases": []} for name in names]},
            gate={"phrases": names},
            statistics={space: whole},
        )
        result["subtract, seconds"] = _once(lambda: subtract(all_of, names[:1]))
    return {**result, "peak MB": peak.megabytes()}


def of_streaming(shapes: str, count: int, work: Path) -> Record:
    """One more concept added to ``count`` and taken away again, and all of them added one by one."""
    _, problems = _parts(shapes, count + 1)
    *first, last = [(p.rows.erase, p.rows.anchors, p.rows.omega) for p in problems]
    peak = Peak()
    stream = Stream(problems[0].width, 0.5)
    stream.add(problems[0].rows.preserve, problems[0].rows.preserve, problems[0].rows.omega_preserve)
    filled = _once(lambda: [stream.add(*rows) for rows in first])
    added, removed = [], []
    for _ in range(REFACTOR // 4):  # with a solve afresh, which comes once in so many, in the mean
        added.append(_once(lambda: stream.add(*last)))
        removed.append(_once(lambda: stream.remove(*last)))
    afresh = _once(stream._solve_afresh)
    return {
        "all one by one, seconds": filled,
        "add, seconds": round(statistics.median(added), 4),
        "remove, seconds": round(statistics.median(removed), 4),
        "afresh, seconds": afresh,
        "peak MB": peak.megabytes(),
    }


def of_look_up(shapes: str, count: int, work: Path) -> Record:
    """The firewall with so many rules of two phrases: a prompt by its words and by its vectors, and the map for it."""
    chosen = bank.concepts()[-count:]
    look = Naming([Named((name, alias) if alias else (name,), kind=kind) for kind, name, alias, _ in chosen])
    prompts = [prompt for which in bank.HALVES for _, prompt in bank.neutral(which)]
    width = walls.WIDTHS["SDXL" if shapes == "SDXL" else "SD1.x"]
    bank.SIZE = count  # of the index
    index = walls.random_index(width, 2)
    rows = [torch.randn(77, width) for _ in range(20)]
    base = Prepared(torch.randn(77, width), torch.ones(77), 0.5)
    assert base.factor.shape == (width, width)
    peak = Peak()
    by_words = walls.times(lambda prompt: look(words_of_prompt(prompt)), prompts)
    by_vectors = walls.times(index, rows)
    touched = [torch.randn(10, width) for _ in range(5)]
    solving = walls.times(lambda r: base.solve(r, r + 1, torch.ones(len(r))), touched)
    return {
        "by words, ms": by_words["median ms"],
        "by vectors, ms": by_vectors["median ms"],
        "map of one concept, ms": solving["median ms"],
        "peak MB": peak.megabytes(),
    }


def _once(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return round(time.process_time() - start, 4)


def cells() -> dict[str, Callable[[Path], Record]]:
    """Name -> work, in the order in which they are run."""
    found: dict[str, Callable[[Path], Record]] = {}
    for shapes in SHAPES:
        found[f"metric, {shapes}"] = partial(of_metric, shapes)
        found[f"encoding, {shapes}"] = partial(of_encoding, shapes)
    for count in COUNTS:
        for shapes in SHAPES:
            for method in METHODS:
                found[f"{method}, {shapes}, {count}"] = partial(of_method, method, shapes, count)
            found[f"join, {shapes}, {count}"] = partial(of_joining, shapes, count)
            found[f"stream, {shapes}, {count}"] = partial(of_streaming, shapes, count)
            found[f"look-up, {shapes}, {count}"] = partial(of_look_up, shapes, count)
    for shapes in SHAPES:
        for method in LOOPS:
            found[f"loop {method}, {shapes}"] = partial(of_loop, method, shapes)
    return found

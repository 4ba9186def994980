"""Measure the demo model, or several side by side: python tools/measure_demo.py [--model NAME=FOLDER ...] [--out FILE].

Every model draws the same prompts from the same seeds (20 DDIM steps, guidance 5, 64 x 64, float32); the bundled
detector, which never saw a generated picture, reads them. Rates come with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from erasure_core.atomic import write_bytes
from erasure_core.demo.augment import as_if_decoded
from erasure_core.demo.bundle import WEIGHTS, load_pipeline
from erasure_core.demo.captions import prompt
from erasure_core.demo.dataset import HELD_OUT, Supply
from erasure_core.demo.detector import LABELS, Detector, Reading, load_detector
from erasure_core.demo.junk import JUNK
from erasure_core.demo.train_autoencoder import reconstruction_psnr
from erasure_core.demo.train_detector import drawings
from erasure_core.demo.wording import SYNONYMS, implicit, misspellings
from erasure_core.demo.world import BACKGROUNDS, COLOURS, GARBLED, NEUTRAL_BACKGROUNDS, SHAPES, STYLES
from erasure_core.evaluation.intervals import wilson

STEPS, GUIDANCE, BATCH = 20, 5.0, 64
Case = tuple[str, dict[str, str]]
"""A prompt and what the picture must show."""


def pairs() -> Iterator[tuple[str, str]]:
    """All 64 pairs of colour and shape, colour first."""
    return ((colour, shape) for colour in COLOURS for shape in SHAPES)


def plain(repeats: int) -> list[Case]:
    """ "a COLOUR SHAPE", all pairs, each ``repeats`` times; the background must come out neutral."""
    return [(prompt(c, s), {"colour": c, "shape": s, "neutral": "yes"}) for _ in range(repeats) for c, s in pairs()]


def backgrounds() -> list[Case]:
    """Every pair on two backgrounds, all backgrounds in turn."""
    cases = []
    for i, (colour, shape) in enumerate([*pairs(), *pairs()]):
        others = [name for name in BACKGROUNDS if name != colour]
        name = others[(i * 3 + i // 64) % len(others)]
        cases.append((prompt(colour, shape, background=name), {"colour": colour, "shape": shape, "background": name}))
    return cases


def styles(phrase: bool) -> list[Case]:
    """The three drawn styles on all pairs, as an adjective or as "in STYLE style"."""
    return [
        (prompt(colour, shape, style, style_phrase=phrase), {"colour": colour, "shape": shape, "style": style})
        for style in STYLES[1:]
        for colour, shape in pairs()
    ]


def synonyms() -> list[Case]:
    """Every pair in synonyms, twice, the synonyms of colours with two taking turns."""
    return [
        (prompt(SYNONYMS[c][turn % len(SYNONYMS[c])], SYNONYMS[s][0]), {"colour": c, "shape": s})
        for turn in range(2)
        for c, s in pairs()
    ]


def alone(repeats: int) -> list[Case]:
    """ "a SHAPE"."""
    return [(prompt(shape=s), {"shape": s}) for _ in range(repeats) for s in SHAPES]


def misspelt(part: str, count: int) -> list[Case]:
    """A misspelt shape with a right colour and the other way round, forms of the part "train" or "held_out"."""
    cases: list[Case] = []
    for i in range(count // 2):
        colour, shape = COLOURS[i // 8 % 8], SHAPES[i % 8]
        forms = getattr(misspellings(shape), part)
        cases.append((prompt(colour, forms[i // 8 % len(forms)]), {"shape": shape}))
        colour, shape = COLOURS[i % 8], SHAPES[i // 8 % 8]
        forms = getattr(misspellings(colour), part)
        cases.append((prompt(forms[i // 8 % len(forms)], shape), {"colour": colour}))
    return cases


def paraphrased(part: str, count: int) -> list[Case]:
    """A shape or a colour in implicit wording of the part "train" or "held_out"."""
    cases: list[Case] = []
    for i in range(count // 2):
        colour, shape = COLOURS[i // 8 % 8], SHAPES[i % 8]
        forms = getattr(implicit(shape), part)
        cases.append((prompt(colour, forms[i // 8 % len(forms)]), {"shape": shape}))
        colour, shape = COLOURS[i % 8], SHAPES[i // 8 % 8]
        forms = getattr(implicit(colour), part)
        cases.append((prompt(shape=shape) + " " + forms[i // 8 % len(forms)], {"colour": colour}))
    return cases


def groups(share: float) -> dict[str, list[Case]]:
    """All prompt groups by name; ``share`` < 1 takes about that share of the cases."""
    made = {
        "plain": plain(8),
        "background": backgrounds(),
        "style adjective": styles(False),
        "style phrase": styles(True),
        "synonyms": synonyms(),
        "shape alone": alone(16),
        "misspelt (held out)": misspelt("held_out", 256),
        "implicit (held out)": paraphrased("held_out", 256),
    }
    step = round(1 / share) | 1  # odd: cases that take turns are all met
    return {name: cases[::step] for name, cases in made.items()}


def judged(reading: Reading, wanted: Mapping[str, str]) -> dict[str, bool]:
    """What was asked for, and whether the reading says so."""
    return {
        name: reading.background in NEUTRAL_BACKGROUNDS if name == "neutral" else reading[name] == label
        for name, label in wanted.items()
    }


def rate(hits: int, n: int) -> dict[str, Any]:
    """A share with its interval, in percent."""
    low, high = wilson(hits, n)
    return {
        "hits": hits,
        "n": n,
        "percent": round(100 * hits / n, 1),
        "wilson": [round(100 * low, 1), round(100 * high, 1)],
    }


@torch.no_grad()
def draw(pipe: Any, cases: list[Case], first_seed: int, bar: Any) -> torch.Tensor:
    """Pictures [n, 3, 64, 64] in 0..1; case i starts from the noise of seed ``first_seed`` + i."""
    made = []
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        pictures = pipe(
            [text for text, _ in part],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=64,
            width=64,
            generator=[torch.Generator().manual_seed(first_seed + start + i) for i in range(len(part))],
            output_type="pt",
        ).images
        made.append(pictures.float().cpu())
        bar.update(len(part))
    return torch.cat(made)


def measure(folder: Path, detector: Detector, share: float, name: str) -> dict[str, Any]:
    """Rates per group and attribute (styles also one by one), garbled share, decoding quality and speed."""
    pipe = load_pipeline(folder)
    result: dict[str, Any] = {"psnr_db": round(reconstruction_psnr(pipe.vae, Supply(0, HELD_OUT)), 2), "groups": {}}
    chosen = groups(share)
    started, count = time.perf_counter(), sum(len(cases) for cases in chosen.values())
    with tqdm(total=count, desc=name) as bar:
        for number, (group, cases) in enumerate(chosen.items()):
            readings = detector.read(draw(pipe, cases, 10_000 * (number + 1), bar))
            tally: dict[str, list[bool]] = {}
            for reading, (_, wanted) in zip(readings, cases, strict=True):
                for attribute, right in judged(reading, wanted).items():
                    tally.setdefault(attribute, []).append(right)
                    if attribute == "style":
                        tally.setdefault(f"style {wanted['style']}", []).append(right)
                tally.setdefault("garbled", []).append(GARBLED in (reading.shape, reading.colour, reading.style))
            result["groups"][group] = {key: rate(sum(hits), len(hits)) for key, hits in tally.items()}
    result["seconds_per_picture"] = round((time.perf_counter() - started) / count, 3)
    return result


def judge_figures(detector: Detector, count: int) -> dict[str, dict[str, Any]]:
    """The detector itself: share right on held-out drawings, clean and worn, and share of junk called garbled."""
    figures: dict[str, dict[str, Any]] = {}
    clean, targets = drawings(count, np.random.default_rng([HELD_OUT, 1]), junk=0.0)
    worn = as_if_decoded(clean, torch.Generator().manual_seed(HELD_OUT))
    for name, images in (("drawings", clean), ("worn drawings", worn)):
        readings = detector.read(images)
        figures[name] = {
            key: rate(sum(labels.index(r[key]) == int(t) for r, t in zip(readings, targets[:, i], strict=True)), count)
            for i, (key, labels) in enumerate(LABELS.items())
        }
        figures[name]["falsely garbled"] = rate(sum(GARBLED in dict(r).values() for r in readings), count)
    figures["junk rejected"] = {}
    for kind, make in JUNK.items():
        rng = np.random.default_rng([HELD_OUT, 2])
        pictures = np.stack([make(rng)[0] for _ in range(max(1, count // 8))])
        readings = detector.read(torch.from_numpy(pictures).permute(0, 3, 1, 2).clamp(0, 255) / 255)
        figures["junk rejected"][kind] = rate(sum(r.shape == GARBLED for r in readings), len(readings))
    return figures


def table(results: Mapping[str, Any]) -> str:
    """All rates as lines of text, models side by side."""
    names = list(results)
    lines = [f"{'group':22}{'attribute':18}" + "".join(f"{name:>28}" for name in names)]
    for group, attributes in results[names[0]]["groups"].items():
        for attribute in attributes:
            cells = [results[name]["groups"][group][attribute] for name in names]
            text = "".join(f"{c['percent']:>12.1f} [{c['wilson'][0]:5.1f},{c['wilson'][1]:6.1f}]" for c in cells)
            lines.append(f"{group:22}{attribute:18}{text}  n={cells[0]['n']}")
    keys = ("psnr_db", "seconds_per_picture")
    lines += [f"{key:40}" + "".join(f"{results[name][key]:>28}" for name in names) for key in keys]
    return "\n".join(lines)


def main() -> int:
    """Measure and write the record. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME=FOLDER", help="models (default: the bundled one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo_model.json"), help="JSON record")
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases, for a quick look (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = load_detector()
    models = dict(entry.split("=", 1) for entry in options.model or [f"bundled={WEIGHTS}"])
    results = {name: measure(Path(folder), detector, options.share, name) for name, folder in models.items()}
    settings = {"steps": STEPS, "guidance": GUIDANCE, "scheduler": "DDIM", "batch": BATCH, "threads": options.threads}
    judge = judge_figures(detector, max(64, round(4000 * options.share)))
    record = {"settings": settings, "detector": {"fingerprint": detector.fingerprint, **judge}, "models": results}
    write_bytes(options.out, (json.dumps(record, indent=1) + "\n").encode())
    print(table(results))
    for group, figures in judge.items():
        print(f"detector, {group}: " + ", ".join(f"{key} {f['percent']} (n={f['n']})" for key, f in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

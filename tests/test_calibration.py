"""The calibrated gate: against a loop over cosines, stored floors, chunks, weights, and the bundled model's world."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch

from erasure_core import BadInput, Erasure, Membrane, apply, load, save
from erasure_core.calibration import PERCENTILE, POWER, SHARE, calibrated, fitted
from erasure_core.formats import describe
from erasure_core.gates import PromptRow, choose_gate, content_ends, content_ids, ends_of, make_gate, prompt_rows
from erasure_core.likeness import CLOSED_BELOW, neutral_bank

GATE = {"phrases": ["circle", "disc"], "neighbours": ["star", "ring"]}
FILLER = ", ".join(["a big green star on a gray background"] * 12)  # more than one chunk of 75 tokens
PROMPTS = ("a red circle", "a disk", "a round shape", "a blue star", "a ring and a moon", "a dog in the snow", "")


@pytest.fixture(scope="module")
def measured(demo):
    return calibrated(demo, GATE)


def row(model, prompt):
    return prompt_rows(model.encode([prompt]))[0]


def unit(vector):
    return vector / vector.square().sum().sqrt()


class Loop:
    """Whole texts scored one by one."""

    def __init__(self, plain, prompts):
        self.plain = plain
        rows = {prompt: plain.rows(prompt)[1 : len(plain.content(prompt)) + 2].double() for prompt in prompts}
        self.ends = {prompt: own[-1] for prompt, own in rows.items()}
        self.centre = torch.cat(list(rows.values())).mean(0)
        self.names = {kind: [self.end(phrase) for phrase in phrases] for kind, phrases in GATE.items()}

    def end(self, text):
        if text not in self.ends:
            self.ends[text] = self.plain.rows(text)[len(self.plain.content(text)) + 1].double()
        return unit(self.ends[text] - self.centre)

    def score(self, text):
        """Cosine of a text's end with the concept's phrases, less what it falls short of the neighbours'."""
        best = {kind: max(float(self.end(text) @ v) for v in vectors) for kind, vectors in self.names.items()}
        return best["phrases"] - max(0.0, best["neighbours"] - best["phrases"])


def test_whole_texts_are_scored_as_a_loop_says(demo, plain, measured):
    bank = neutral_bank(demo)
    loop = Loop(plain, bank.prompts)
    assert torch.allclose(loop.centre, measured.ends.centre, atol=1e-5)
    names = {"circle", "circles", "disc", "discs", "star", "stars", "ring", "rings"}
    apart = [p for p in bank.prompts if not names & set(p.replace(",", " ").split())]
    scores = sorted(loop.score(prompt) for prompt in apart)
    at = PERCENTILE * (len(scores) - 1)
    low, high = scores[int(at)], scores[int(at) + 1]
    floor = low + (at - int(at)) * (high - low)
    said = [form.format(name) for name in GATE["phrases"] for form in ("{}", "a {}", "the {}")]
    said += [f"a {medium} of a {name}" for name in GATE["phrases"] for medium in ("photo", "picture")]
    own = sorted(loop.score(text) for text in said)[(len(said) - 1) // 2]
    assert measured.floor[1] == pytest.approx(floor, abs=1e-6)
    assert measured.ceiling[1] == pytest.approx(floor + SHARE * (own - floor), abs=1e-6)
    for prompt in PROMPTS:
        part = (loop.score(prompt) - measured.floor[1]) / (measured.ceiling[1] - measured.floor[1])
        wanted = max(0.0, min(1.0, part)) ** POWER
        wanted = wanted if wanted >= CLOSED_BELOW else 0.0
        read = row(demo, prompt)
        tokens = float(measured.tokens(read.rows)[0])
        assert measured(read.rows, read.ends) == pytest.approx(max(tokens, wanted), abs=1e-5)


def test_words_come_first_and_weights_and_chunks_do_not_matter(demo):
    gate = make_gate("calibrated", GATE["phrases"], GATE["neighbours"], demo)
    for prompt in ("a red Circle", "((circle:0.3))", f"{FILLER}, and two discs", f"{FILLER}, ({FILLER}:1.2), circle"):
        found = gate(row(demo, prompt))
        assert (found.gain, found.mode) == (1.0, "exact")
    for prompt in ("a blue star", "a ring", "a dog in the snow", FILLER):
        assert gate(row(demo, prompt)).gain == 0.0


def test_a_description_in_the_second_chunk_counts_as_in_the_first(demo):
    found = calibrated(demo, {"phrases": ["circle"], "neighbours": ["star"]})
    filler = " ".join(["star"] * 75)  # fills a chunk; what stands in brackets begins the next
    for described in ("a disc", "a round shape"):
        short, long = row(demo, described), row(demo, f"{filler} ({described}:1.0)")
        assert len(long.ends) == 2
        assert found.ends.scores(long.rows[[long.ends[1]]]) == pytest.approx(
            float(found.ends.scores(short.rows[list(short.ends)])), abs=1e-5
        )
        assert found(long.rows, long.ends) >= found(short.rows, short.ends) - 1e-5
    assert found(row(demo, "a disc").rows, row(demo, "a disc").ends) > 0.5
    assert found(row(demo, filler).rows, row(demo, filler).ends) == 0.0


def test_unknown_words_are_judged_by_tokens_alone(demo, measured):
    gate = make_gate("calibrated", GATE["phrases"], GATE["neighbours"], demo)
    read = row(demo, "a red circle")
    blind = gate(PromptRow(read.rows))
    assert blind.mode == "approximate" and blind.gain == float(measured.tokens(read.rows)[0]) > 0.9


def test_ends_are_read_alike_from_tensors_and_lists(demo):
    encoded = demo.encode(["a circle", FILLER])
    for b, ends in enumerate(ends_of(encoded)):
        count = int(encoded.extras["chunks"][b])
        chunks = encoded.tokens["clip_l"][b, :count].tolist()
        assert content_ends(chunks, 49407, 77 * count) == ends
        assert all(encoded.tokens["clip_l"][b].flatten()[end] == 49407 for end in ends)
        assert content_ends(chunks, 49407, 77 * count + 1) is None
    assert content_ids([[49406, 7, 49407]], 49407) == (7,)


def test_stored_numbers_are_used_for_the_same_encoder_only(demo, circle, tmp_path, monkeypatch):
    path = save(fitted(circle, demo), tmp_path / "circle.safetensors")
    gate = load(path).gate
    assert "single words: floor" in describe(path) and "whole texts: floor" in describe(path)
    fresh = calibrated(demo, circle.gate)
    monkeypatch.setattr("erasure_core.calibration._measured", lambda *_: pytest.fail("measured again"))
    stored = calibrated(demo, gate)
    for prompt in PROMPTS:
        read = row(demo, prompt)
        assert stored(read.rows, read.ends) == pytest.approx(fresh(read.rows, read.ends), abs=1e-4)
    monkeypatch.setattr("erasure_core.calibration._measured", lambda *_: "again")
    other = {"clip_l": "A" * len(gate["encoder"]["clip_l"])}
    odd = [{"encoder": other}, {"phrases": ["heart"]}, {"neighbours": ["moon"]}, {"floor": [0.1]}, {"floor": 3}]
    for change in [*odd, {"centre": "%"}, {"centre": ""}, {"ceiling": ["x", "y"]}, {"ceiling": gate["floor"]}]:
        assert calibrated(demo, {**gate, **change}) == "again"
    assert calibrated(demo, circle.gate) == "again"


def test_an_erasure_that_names_nothing_is_left_alone(demo, circle):
    silent = dataclasses.replace(circle, gate={})
    assert fitted(silent, demo) is silent


def test_auto_says_what_it_chose_and_why(demo, circle):
    assert Membrane(circle).gate == "auto"
    with apply(demo, Membrane(circle)) as applied:
        (receipt,) = applied.receipts
        assert receipt.gate == "calibrated" and "acts on prompts that name or describe" in applied.receipt
    for erasure, act_on, why in (
        (dataclasses.replace(circle, gate={}), "auto", "does not say what it erases"),
        (dataclasses.replace(circle, gate={**circle.gate, "rows": "full"}), "auto", "on every prompt by design"),
        (circle, "weights", "changes of weights act on every prompt"),
    ):
        with apply(demo, Membrane(erasure), act_on) as applied:
            assert applied.receipts[0].gate == "always" and why in applied.receipt
            assert "is not used" not in applied.receipt
    with apply(demo, Membrane(circle, gate="words")) as applied:
        assert applied.receipts[0].gate == "words" and "gate 'words':" not in applied.receipt


def test_auto_does_not_refuse_what_cannot_be_read(demo):
    assert choose_gate("auto", {"phrases": ["!?"]}, True, demo)[0] == "always"
    with pytest.raises(BadInput, match="holds no letter or digit"):
        make_gate("calibrated", ["!?"], [], demo)
    with pytest.raises(BadInput, match="does not say what it erases"):
        Membrane(Erasure(), gate="calibrated")


@pytest.fixture(scope="module")
def bench():
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("gates")
    sys.path.remove(folder)


def test_the_bank_is_what_it_says(bench):
    entries = bench.bank.entries()
    assert len(entries) == len({entry.phrases[0] for entry in entries}) == 100
    halves = [bench.bank.concepts(which) for which in bench.bank.HALVES]
    assert not {e.phrases for e in halves[0]} & {e.phrases for e in halves[1]}
    assert sum(len(bench.bank.unrelated(which)) for which in bench.bank.HALVES) == 300
    for entry in entries:
        naming = bench.Naming([bench.Named(entry.phrases, sensitivity=1.0)])
        for way, prompts in bench.bank.prompts(entry).items():
            named = {bool(naming(bench.words_of_prompt(prompt))) for prompt in prompts}
            assert named <= {way in ("named", "alias")}, (entry.phrases, way)


def test_the_figures_hold_in_the_bundled_models_world(demo, bench):
    entries, unrelated = bench.world()[::5], bench.bank.unrelated("seen")
    gains = bench.gains_of("calibrated", entries, bench.world_prompts, unrelated, bench.Reader(demo))
    found = {name: value for name, value in bench.figures(gains).items() if "k" in value}
    least = {"named or alias, at least .95": 0.98, "neighbours, below .3": 0.9, "unrelated, exactly 0": 0.97}
    for name, share in least.items():
        assert found[name]["k"] >= share * found[name]["n"], (name, found[name])
    assert len(gains["unrelated"]) >= 590 and len(gains["declared neighbour"]) >= 48


def test_the_area_under_a_curve_is_how_often_one_is_above_the_other(bench):
    found, wrong = [0.9, 0.5, 0.5, 0.0], [0.5, 0.1, 0.0, 0.0, 0.7]
    pairs = [1.0 if f > w else 0.5 if f == w else 0.0 for f in found for w in wrong]
    assert bench.area(found, wrong) == pytest.approx(sum(pairs) / len(pairs))
    curve = bench.points(found, wrong)
    assert curve[0] == [0.0, 0.25] and curve[-1] == [1.0, 1.0] and [0.2, 0.25] in curve
    assert curve == sorted(curve)

"""The bench on the bundled model: controls, caching, resuming, order-independence, undecided pictures."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_support import STEPS, ColourJudge, CountingModel, small_groups
from PIL import Image

from erasure_core.erasure import Erasure, WeightDelta
from erasure_core.errors import BadInput, CannotWrite, Interrupted
from erasure_core.evaluation import Rate, Undecided, bench, demo_groups, make_group, result_sheet
from erasure_core.evaluation.groups import seed_of
from erasure_core.evaluation.sheet import BAD, GOOD, PICTURE
from erasure_core.membranes import Membrane
from erasure_core.models import load_demo

pytest.importorskip("diffusers")
PICTURES = 16 + 14


@pytest.fixture(scope="module")
def demo():
    torch.set_num_threads(1)
    return load_demo()


@pytest.fixture
def model(demo):
    return CountingModel(demo)


@pytest.fixture(scope="module")
def destroyer(demo):
    """A membrane that puts noise in place of the denoiser's last convolution."""
    name = "unet.conv_out.weight"
    weight = demo.weights()[name]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std() * 3
    return Membrane(Erasure(weight_deltas={name: WeightDelta(name, diff=noise - weight)}))


def run(model, folder, membranes=(), groups=None, detector=None, **options):
    options = {"steps": STEPS, **options}
    return bench(model, membranes, groups or small_groups(), detector or ColourJudge(), folder, **options)


@pytest.fixture(scope="module")
def finished(demo, destroyer, tmp_path_factory):
    """One uninterrupted run with a membrane; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(demo, folder, [destroyer])


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run's folder, to go on with."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def test_no_membrane_scores_zero_efficacy_and_full_specificity(model, tmp_path):
    result = run(model, tmp_path)
    before, after = result.rate("D")
    assert before == after
    assert before.k >= 3, "the model draws red when asked"
    axes = {name: estimate.value for name, estimate in result.scores.axes.items()}
    assert axes == {"E": 0.0, "G": 0.0, "S": 1.0, "F": 1.0}
    assert result.scores.total.value == pytest.approx(400 / 102)
    assert model.calls["sample"] == 16, "a model against itself needs each picture once"


def test_a_membrane_of_strength_zero_draws_the_same_pixels(demo, destroyer, tmp_path):
    result = run(demo, tmp_path, replace(destroyer, strength=0.0))
    assert result.membrane != "base"
    assert {name: estimate.value for name, estimate in result.scores.axes.items()} == {"E": 0, "G": 0, "S": 1, "F": 1}
    for group in result.groups:
        for case in () if group.base_only else group.cases:
            before, after = (result.pictures.load(result.shots[case.group, case.prompt, case.seed, i]) for i in (0, 1))
            assert torch.equal(before, after)


def test_a_destroyer_scores_no_specificity_and_a_low_total(finished):
    _, result = finished
    assert result.scores.axes["E"].value == 1.0
    assert result.scores.axes["S"].value == 0.0
    assert result.scores.axes["F"].value < 0.1
    assert result.scores.total.value < 8
    assert len([side for _, side in result.garbled if side == 1]) >= 12
    assert [damage.kept for damage in result.scores.most_damaged] == [0.0] * 3
    low = result.scores.axes["E"].low
    assert low < 0.6, "no hit in four pictures is no proof of zero"


def test_table_and_json_tell_the_same_without_paths_or_times(finished):
    folder, result = finished
    content = json.loads(result.to_json())
    before = result.rate("D")[0]
    ends = [round(before.low, 4), round(before.high, 4)]
    assert content["groups"]["D"]["rates"]["colour"]["before"] == {"k": before.k, "n": 4, "ci": ends}
    assert content["groups"]["D"]["rates"]["colour"]["after"]["k"] == 0
    assert "after" not in content["groups"].get("O", {"rates": {}})["rates"]
    assert content["axes"]["S"]["value"] == 0.0
    assert content["score"]["axes_used"] == "H over 4 of 5 axes (E, G, S, F)"
    assert str(folder) not in result.to_json()
    assert str(Path.home()) not in result.to_json()
    text = result.table()
    assert str(before) in text
    assert "H over 4 of 5 axes" in text
    for word in ("red", "misspelt", "blue", "green", "purple", "all neighbours", "Most damaged", "Garbled pictures"):
        assert word in text
    saved = result.save(folder / "result.json")
    assert saved.read_text(encoding="utf-8") == result.to_json()


def test_one_record_per_picture_with_relative_paths(finished):
    folder, _ = finished
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) == PICTURES
    assert sum(record["model"] for record in records) == 14
    for record in records:
        assert (folder / record["picture"]).is_file()
        assert set(record["labels"]) == {"colour"}
        assert record["detector"] == "colour-judge-1"
    assert len({record["settings"] for record in records}) == 1


def test_a_second_run_draws_nothing_and_says_the_same(finished, model, destroyer):
    folder, result = finished
    again = run(model, folder, [destroyer])
    assert not model.calls
    assert again.to_json() == result.to_json()
    assert again.table() == result.table()
    assert (folder / "records.jsonl").read_text(encoding="utf-8").count("\n") == PICTURES


def test_order_of_cases_and_size_of_batches_change_nothing(finished, demo, destroyer, tmp_path):
    _, result = finished
    mixer = random.Random(1)
    groups = [replace(group, cases=tuple(mixer.sample(group.cases, len(group.cases)))) for group in small_groups()]
    mixed = run(demo, tmp_path, [destroyer], groups[::-1], batch=5)
    assert mixed.to_json() == result.to_json()


def test_only_what_changed_is_drawn_again(model, destroyer, tmp_path):
    groups = small_groups()[:1]
    run(model, tmp_path, [], groups)
    assert model.calls["sample"] == 4
    run(model, tmp_path, [destroyer], groups)
    assert model.calls["sample"] == 8, "the second membrane reuses the base pictures"
    run(model, tmp_path, [destroyer], groups, cfg=4.0)
    assert model.calls["sample"] == 16
    run(model, tmp_path, [destroyer], groups)
    assert model.calls["sample"] == 16, "the pictures of the old setting are still there"
    more = make_group(
        "D",
        "red",
        "direct",
        "colour",
        [(c.prompt, c.expect) for c in groups[0].cases] + [("red", {"colour": "red"})],
        1,
    )
    run(model, tmp_path, [destroyer], [more])
    assert model.calls["sample"] == 18
    run(model, tmp_path, [replace(destroyer, strength=0.5)], groups)
    assert model.calls["sample"] == 22
    run(model, tmp_path, [destroyer], groups, negative="blue")
    assert model.calls["sample"] == 30


def test_a_long_prompt_does_not_change_its_neighbours_in_the_batch(demo, tmp_path):
    short = [("a red circle", {"colour": "red"})]
    long = [("a red circle, " + "very " * 90 + "red", {"colour": "red"})]
    alone = run(demo, tmp_path / "alone", groups=[make_group("D", "red", "direct", "colour", short, 2)])
    mixed = run(demo, tmp_path / "mixed", groups=[make_group("D", "red", "direct", "colour", short + long, 2)])
    for seed in (seed_of("a red circle"), seed_of("a red circle", 1)):
        first, second = (r.pictures.load(r.shots["D", "a red circle", seed, 0]) for r in (alone, mixed))
        assert torch.equal(first, second)


def test_another_detector_reads_the_kept_pictures(finished, copied, model, destroyer):
    class Other(ColourJudge):
        fingerprint = "colour-judge-2"

    again = run(model, copied, [destroyer], detector=Other())
    assert not model.calls
    assert again.rate("N") == finished[1].rate("N")
    lines = (copied / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(line)["detector"] == "colour-judge-2" for line in lines) == PICTURES


def test_damaged_pictures_and_torn_records_are_made_again(model, destroyer, finished, copied):
    pictures = sorted((copied / "pictures").glob("base-*/*.png"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:-200])
    pictures[1].write_bytes(b"not a picture")
    pictures[2].write_bytes(pictures[3].read_bytes())
    records = copied / "records.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) - 30])
    again = run(model, copied, [destroyer])
    assert model.calls["sample"] == 3
    assert again.to_json() == finished[1].to_json()
    assert sorted(records.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("how", ["asked", "keyboard"])
def test_a_stopped_run_keeps_its_work_and_goes_on(how, finished, model, destroyer, tmp_path):
    _, result = finished
    before = model.weights()["unet.conv_out.weight"]

    def press(done, total, what):
        assert 0 < done <= total == PICTURES
        if how == "keyboard" and done > 20:
            raise KeyboardInterrupt

    stop = (lambda: model.calls["decode"] > 20) if how == "asked" else None
    with pytest.raises(Interrupted, match="kept"):
        run(model, tmp_path, [destroyer], batch=8, progress=press, should_stop=stop)
    kept = len(list((tmp_path / "pictures").glob("*/*.png")))
    assert 16 < kept < PICTURES
    assert torch.equal(model._model.pipe.unet.conv_out.weight, before), "the membrane was taken off again"
    drawn = model.calls["sample"]
    assert run(model, tmp_path, [destroyer], batch=8).to_json() == result.to_json()
    assert model.calls["sample"] - drawn == PICTURES - kept


KILLED = """
import sys
import time
from pathlib import Path
sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]) / "tests")]
import torch
torch.set_num_threads(1)
from bench_support import STEPS, ColourJudge, small_groups
from erasure_core.evaluation import bench
from erasure_core.models import load_demo
work = dict(steps=STEPS, batch=2, progress=lambda *_: time.sleep(0.5))  # time enough to be killed at work
bench(load_demo(), [], small_groups()[:3], ColourJudge(), sys.argv[1], **work)
"""


def test_a_killed_process_loses_nothing_it_finished(model, tmp_path):
    root = Path(__file__).parent.parent
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(killed), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("pictures/*/*.png"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still at work"
    kept = len(list(killed.glob("pictures/*/*.png")))
    resumed = run(model, killed, groups=small_groups()[:3], batch=2)
    assert model.calls["sample"] == 12 - kept
    assert resumed.to_json() == run(model, tmp_path / "whole", groups=small_groups()[:3], batch=2).to_json()


class Moody(ColourJudge):
    """Cannot judge pictures of some brightness."""

    fingerprint = "moody"
    count = 0

    def read(self, images):
        for image in images:
            if image.mean() in self.hated:
                raise Undecided("cannot see")
        return super().read(images)


def test_undecided_pictures_are_counted_apart_and_withhold_the_score(finished, copied, demo, destroyer):
    _, result = finished
    pictures = [result.pictures.load(result.shots[c.group, c.prompt, c.seed, 0]) for c in result.group("N").cases[:2]]
    judge = Moody()
    judge.fingerprint, judge.hated = "moody-1", [(pictures[0].float() / 255).mean()]
    one = run(demo, copied, [destroyer], detector=judge)
    assert one.undecided == (1, 0)
    assert one.rate("N")[0].n == one.rate("N")[1].n == 5, "the pair is left out on both sides"
    assert one.scores.total is not None, "1 of 30 is 3 %"
    judge.fingerprint, judge.hated = "moody-2", [(picture.float() / 255).mean() for picture in pictures]
    two = run(demo, copied, [destroyer], detector=judge)
    assert two.undecided == (2, 0)
    assert two.scores.total is None
    assert "E" not in two.scores.axes
    assert "2 of 30 pictures could not be judged" in two.table()
    assert json.loads(two.to_json())["score"]["withheld"].startswith("2 of 30")


def test_a_programming_mistake_in_a_detector_is_not_hidden(demo, tmp_path):
    class Broken(ColourJudge):
        def read(self, images):
            raise TypeError("boom")

    with pytest.raises(TypeError, match="boom"):
        run(demo, tmp_path, groups=small_groups()[:1], detector=Broken())


def test_what_the_model_does_not_know_is_not_testable(demo, destroyer, copied):
    unknown = make_group("D", "infrared", "direct", "colour", [("a red circle", {"colour": "infrared"})], 1)
    result = run(demo, copied, [destroyer], [unknown, small_groups()[2]])
    assert result.scores.total is None
    assert "not testable - the base model does not know it" in result.table()
    assert "E" not in result.scores.axes
    assert "S" in result.scores.axes
    groups = [
        *small_groups()[:1],
        make_group("N", "neighbours", "neighbour", "colour", [("a blue moon", {"colour": "pink"})], 1),
        make_group("P", "by another name", "indirect", "colour", [("a blue moon", {"colour": "red"})], 1),
    ]
    half = run(demo, copied, [destroyer], groups)
    assert half.testable("D")
    assert not half.testable("P")
    assert "G" not in half.scores.axes
    assert "S" not in half.scores.axes
    assert "not in S: the base model misses it" in half.table()
    assert "not testable" in half.table()


def test_a_judge_that_sees_the_concept_everywhere_is_too_weak(demo, destroyer, copied):
    class Rosy(ColourJudge):
        fingerprint = "rosy"

        def read(self, images):
            return [{"colour": "red"} for _ in images]

    result = run(demo, copied, [destroyer], detector=Rosy())
    assert "too weak" in result.scores.withheld
    assert result.scores.total is None


def test_refusals_name_the_mistake(demo, tmp_path):
    groups = small_groups()
    for options, message in (
        ({"groups": [groups[0], groups[0]]}, "called 'D'"),
        ({"groups": [make_group("D", "d", "direct", "colour", [], 1)]}, "nothing to draw"),
        ({"steps": 0}, "at least one sampling step"),
        ({"batch": 0}, "at least one picture"),
        ({"weights": "kind"}, "Unknown profile"),
        (
            {"groups": [groups[0], make_group("P", "p", "indirect", "colour", [("b", {"colour": "blue"})], 1)]},
            "several concepts",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            run(demo, tmp_path, **options)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="folder"):
        run(demo, tmp_path / "file" / "deep")


def test_the_sheet_of_a_result_marks_what_was_lost(finished, tmp_path):
    _, result = finished
    with Image.open(result_sheet(result, tmp_path / "sheet.png", footer=["a last line"])) as image:
        pixels = np.asarray(image.convert("RGB"))
    gone, lost = ((pixels == colour).all(axis=-1).sum() for colour in (GOOD, BAD))
    drawn = {
        name: sum(pair.before.labels["colour"] == pair.case.expect["colour"] for pair in result.pairs[name])
        for name in "DMN"
    }
    frame = 4 * 4 * PICTURE
    for pixels_of, count in ((gone, drawn["D"] + drawn["M"]), (lost, drawn["N"])):
        assert count >= 3
        assert 0.95 < pixels_of / (count * frame) < 1.2, "a frame, a mark and a word per picture the model could draw"


def test_demo_groups_run_with_the_shapes_worlds_own_words(demo, tmp_path):
    groups = [replace(group, cases=group.cases[:2]) for group in demo_groups("red")]
    result = run(demo, tmp_path, groups=groups, detector=_Blind())
    assert result.rate("D")[0].n == 2
    assert result.rate("O")[1] == Rate(0, 2)
    assert "'red' left out" in result.table()


class _Blind:
    """Knows all attributes of the shapes world and sees nothing."""

    attributes = ("shape", "colour", "style", "background")
    fingerprint = "blind"

    def read(self, images):
        return [dict.fromkeys(self.attributes, "garbled") for _ in images]

"""The commands as a newcomer meets them: help, results, and one line without a traceback for every mistake."""

import dataclasses
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from erasure_core import cli
from erasure_core.cli.console import Progress
from erasure_core.closed_form import explain, uce
from erasure_core.demo.bundle import load_pipeline
from erasure_core.errors import BadInput, Interrupted
from erasure_core.formats import load

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["demo", "erase", "generate", "inspect", "convert"]


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Runs ``main`` in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def membrane(tmp_path_factory):
    """A native file made by the command, for the commands that read one."""
    path = tmp_path_factory.mktemp("made") / "no-circle.safetensors"
    assert cli.main(["erase", "--concepts", "circle -> square", "--out", str(path)]) == 0
    return path


def process(*arguments, folder, **variables):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "erasure_core", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def picture(path):
    with Image.open(path) as image:
        image.load()
        return image


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_with_examples(command, name):
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    assert f"python -m erasure_core {name}" in out.split("examples:")[1]
    assert "--debug" in out


def test_the_front_page_lists_every_command_and_the_exit_codes(command):
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert "Exit codes" in out and "nothing is downloaded" in out


def test_examples_in_the_help_are_understood_by_the_parser():
    parser = cli.build_parser()
    seen = 0
    texts = [c.EXAMPLES for c in cli.COMMANDS] + [parser.format_help()]
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("  python -m erasure_core "):
                words = shlex.split(line.split("      (")[0])  # a remark may follow in brackets
                if "--explain" in words:
                    with pytest.raises(SystemExit, match="0"):
                        parser.parse_args(words[3:])
                else:
                    parser.parse_args(words[3:])
                seen += 1
    assert seen >= 12


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["erase"],
        ["erase", "--concepts", "circle"],
        ["erase", "--concepts", "circle", "--out", "x.safetensors", "--form", "pickle"],
        ["erase", "--concepts", "circle", "--out", "x.safetensors", "--dtype", "int3"],
        ["generate"],
        ["generate", "--prompt", "x", "--steps", "many"],
        ["inspect"],
        ["convert", "only-one.safetensors"],
        ["demo", "--speed"],
    ],
)
def test_wrong_usage_is_exit_code_two(command, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "error:" in err and "usage:" in err


ERASE = ["erase", "--out", "x.safetensors", "--concepts"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*ERASE, ""], "no concept to erase"),
        ([*ERASE, "circle -> square -> star"], "Line 1, column 21: two anchors"),
        ([*ERASE, "circle", "--concepts", "star @ x"], "Line 2, column 8"),
        ([*ERASE, "circle", "--kind", "shape"], "'shape' is no kind"),
        ([*ERASE, "circle", "--option", "lamb"], "'lamb' is not an option"),
        ([*ERASE, "circle", "--option", "lamb=1", "--option", "lamb=2"], "given twice"),
        ([*ERASE, "circle", "--option", "method=uce"], "Say it as --method"),
        ([*ERASE, "@missing.txt"], "missing.txt cannot be read"),
        ([*ERASE, "@."], "cannot be read"),
        ([*ERASE, "circle", "--model", "nowhere"], "nowhere is not a model folder"),
        (["erase", "--concepts", "circle", "--out", "."], "is a folder"),
        (["generate", "--prompt", "x", "--steps", "0"], "--steps is 0; it must be from 1 to 1000"),
        (["generate", "--prompt", "x", "--count", "0"], "--count is 0"),
        (["generate", "--prompt", "x", "--seed", "-1"], "--seed is -1"),
        (["generate", "--prompt", "x", "--cfg", "nan"], "--cfg is nan"),
        (["generate", "--prompt", "x", "--model", "nowhere"], "nowhere is not a model folder"),
        (["generate", "--prompt", "x", "--membrane", "missing.safetensors"], "missing.safetensors"),
        (["generate", "--prompt", "x", "--membrane", "missing.safetensors:0.5"], "missing.safetensors"),
        (["inspect", "missing.safetensors"], "missing.safetensors"),
        (["inspect", "."], "folder"),
        (["convert", "missing.safetensors", "out.safetensors"], "missing.safetensors"),
        (["convert", "x", "."], "is a folder"),
        (["demo", "--concept", "unicorn"], "does not know 'unicorn'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_one(command, arguments, words, tmp_path):
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and one_line(err), err
    assert words in err
    assert not list(tmp_path.iterdir())


def test_unknown_method_and_option_list_the_known_ones(command):
    assert "Known: uce" in command(*ERASE, "circle", "--method", "magic")[2]
    code, _, err = command(*ERASE, "circle", "--option", "speed=3")
    assert code == 1 and "has no option 'speed'" in err and "lamb (" in err and one_line(err)


def test_nothing_is_overwritten_without_being_asked(command, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"mine")
    code, _, err = command(*ERASE, "circle")
    assert code == 1 and "add --overwrite" in err
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "01-x-0.png").write_bytes(b"mine")
    code, _, err = command("generate", "--prompt", "x", "--out", "pictures")
    assert code == 1 and "01-x-0.png exists" in err
    (tmp_path / "y").write_bytes(b"y")
    assert "add --overwrite" in command("convert", "y", "x.safetensors")[2]
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "pictures" / "01-x-0.png").read_bytes() == b"mine"


def test_concepts_come_from_files_and_pipes_too(command, tmp_path, monkeypatch):
    (tmp_path / "bad.txt").write_bytes('circle → square\r\n"open'.encode("utf-8-sig"))
    assert "Line 2, column 1: this quote is never closed" in command(*ERASE, "@bad.txt")[2]
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    assert "not a text file in UTF-8" in command(*ERASE, "@latin.txt")[2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("# nothing"))
    assert "no concept to erase" in command(*ERASE, "@-")[2]


def test_erase_prints_the_receipt_and_writes_the_file(command, tmp_path):
    (tmp_path / "list.txt").write_text("circle -> square\n+ a red star\n", encoding="utf-8")
    code, out, err = command(
        "erase", "--concepts", "@list.txt", "--preserve", "a blue moon", "--out", "new/m.safetensors"
    )
    assert (code, err) == (0, "")
    assert "1 concept erased by uce" in out
    for part in ("family sd1", "8 of 8 layers", "rank ", "‖T−I‖", "drift"):
        assert part in out
    assert (tmp_path / "new" / "m.safetensors").stat().st_size < 20_000
    code, out, _ = command("inspect", "new/m.safetensors")
    assert code == 0
    for part in ("circle", "square", "uce", "sd1"):
        assert part in out


def test_convert_makes_a_lora_that_draws_the_same(command, membrane, tmp_path):
    code, out, err = command("convert", str(membrane), "lora.safetensors", "--form", "lora")
    assert (code, err) == (0, "") and "lora.safetensors (lora, fp32" in out
    common = ["generate", "--prompt", "a red circle", "--steps", "3", "--seed", "5", "--cfg", "1", "--membrane"]
    assert command(*common, str(membrane), "--out", "a")[0] == 0
    assert command(*common, "lora.safetensors", "--out", "b")[0] == 0
    first, second = (picture(tmp_path / folder / "01-a-red-circle-5.png") for folder in "ab")
    worst = max(abs(x - y) for x, y in zip(first.tobytes(), second.tobytes(), strict=True))
    assert worst <= 1  # of 255: sums in another order. With guidance the LoRA acts on the negative prompt, too


def test_whole_weights_are_read_with_a_base_and_drawn_with_as_they_are(command, demo, tmp_path):
    """ESD's trained layers (arXiv 2303.07345) as new weights: told, converted, and drawn with the model as the base."""
    weights = demo.weights()
    names = [name for name in weights if ".attn2." in name]
    made = torch.Generator().manual_seed(2)
    changed = {n: weights[n] + 0.1 * weights[n].std() * torch.randn(weights[n].shape, generator=made) for n in names}
    save_file({n.removeprefix("unet."): w for n, w in changed.items()}, tmp_path / "esd.safetensors")
    _, told, _ = command("inspect", "esd.safetensors")
    assert "whole new weights of part of a U-Net (ESD" in told and "as the base" in told
    code, told, err = command("inspect", "esd.safetensors", "--base", "demo", "--concept", "circle | disc")
    assert code == 0, err
    assert "delta_residual" in told and "circle (also: disc)" in told and "gate       circle, disc" in told
    code, out, err = command("convert", "esd.safetensors", "small.safetensors", "--base", "demo", "--rank", "4")
    assert code == 0 and "delta_residual 0." in out, err
    assert {delta.rank for delta in load(tmp_path / "small.safetensors").weight_deltas.values()} == {4, None}
    assert command("convert", "esd.safetensors", "all.safetensors", "--base", "demo")[0] == 0
    common = ["generate", "--prompt", "x", "--steps", "2", "--cfg", "1"]
    assert command(*common, "--out", "plain")[0] == 0
    for file in ("esd", "all"):
        assert command(*common, "--membrane", f"{file}.safetensors", "--out", file)[0] == 0
    plain, direct, kept = (picture(tmp_path / out / "01-x-0.png").tobytes() for out in ("plain", "esd", "all"))
    assert direct == kept != plain


def test_generate_writes_pictures_and_a_grid_and_strength_zero_is_off(command, membrane, tmp_path):
    common = ["generate", "--prompt", "a red circle", "--prompt", "☂ only?", "--count", "2", "--steps", "2"]
    code, out, err = command(*common, "--out", "plain", "--negative", "blue")
    assert code == 0, err
    names = ["01-a-red-circle-0.png", "02-a-red-circle-1.png", "03-only-0.png", "04-only-1.png", "grid.png"]
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == names
    assert [Path(line).name for line in out.splitlines()] == names
    assert picture(tmp_path / "plain" / "grid.png").size == (132, 132)
    text = picture(tmp_path / "plain" / names[3]).text["parameters"]
    assert text.startswith("☂ only?\nNegative prompt: blue\nSteps: 2, CFG scale: 5, Seed: 1")
    assert command(*common, "--out", "off", "--negative", "blue", "--membrane", f"{membrane}:0")[0] == 0
    assert command(*common, "--out", "on", "--negative", "blue", "--membrane", str(membrane))[0] == 0
    plain, off, on = ((tmp_path / folder / "grid.png").read_bytes() for folder in ("plain", "off", "on"))
    assert plain == off != on


def test_the_demo_command_calls_the_showcase(command, monkeypatch):
    calls = []

    def run(concept, anchor, out, progress):
        progress(1, 2, "drawing")
        calls.append((concept, anchor, out))
        return "| the table |"

    monkeypatch.setattr("erasure_core.showcase.run", run)
    assert command("demo", "--concept", "star", "--anchor", "", "--out", "x")[:2] == (0, "| the table |\n")
    for concept in ("square", " Red "):
        assert command("demo", "--concept", concept)[0] == 0
    assert command("demo")[0] == 0
    out = Path("out/demo")
    assert calls[0] == ("star", "", Path("x"))
    assert calls[1:] == [("square", "circle", out), (" Red ", "orange", out), ("circle", "square", out)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("stopped by the user")])
def test_stopping_is_exit_code_130(command, monkeypatch, error):
    monkeypatch.setattr(cli.erase, "load_model", raiser(error))
    assert command(*ERASE, "circle") == (130, "", "stopped\n")


def test_debug_lets_the_exception_through(command, monkeypatch):
    monkeypatch.setattr(cli.erase, "load_model", raiser(BadInput("no")))
    with pytest.raises(BadInput, match="no"):
        command(*ERASE, "circle", "--debug")


def test_an_error_of_the_system_names_the_file(command, monkeypatch):
    monkeypatch.setattr(cli.erase, "load_model", raiser(PermissionError(13, "Permission denied", "weights.bin")))
    assert command(*ERASE, "circle") == (1, "", "error: weights.bin: Permission denied.\n")


def test_missing_packages_are_named_with_the_command_that_adds_them(command, monkeypatch):
    monkeypatch.setattr(cli.shared.importlib.util, "find_spec", lambda name: None)
    code, _, err = command(*ERASE, "circle")
    assert code == 1 and "needs diffusers and transformers" in err and "-m pip install diffusers transformers" in err


def test_a_broken_model_folder_is_one_line(command, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    code, _, err = command(*ERASE, "circle", "--model", "model")
    assert code == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: model could not be loaded as a diffusers pipeline")


def test_a_model_folder_draws_what_its_pipeline_draws(command, tmp_path):
    load_pipeline().save_pretrained(tmp_path / "model")
    common = ["generate", "--prompt", "a red circle", "--steps", "2"]
    code, _, err = command(*common, "--model", "model", "--out", "a")
    assert code == 0, err
    assert command(*common, "--out", "b")[0] == 0
    first, second = (picture(tmp_path / folder / "grid.png").tobytes() for folder in "ab")
    assert first == second


def test_progress_follows_a_changing_total(capsys):
    with Progress("picture") as progress:
        progress(0, 4, "before")
        progress(4, 8, "after")
        progress(8, 8)
    with Progress():
        pass
    assert "after" in capsys.readouterr().err


def raiser(error):
    def load_model(where):
        raise error

    return load_model


def test_the_process_says_what_main_says(tmp_path):
    wrong = process("erase", folder=tmp_path)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    mistake = process("erase", "--concepts", "→ x", "--out", "x", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert mistake.returncode == 1
    assert mistake.stderr.startswith("error: Line 1, column 1: the phrase to erase is missing") and one_line(
        mistake.stderr
    )


def test_explain_says_why_and_lists_every_setting(command):
    code, out, _ = command("erase", "--explain", "uce")
    assert code == 0 and out == explain("uce") + "\n"
    assert command("erase", "--explain", "magic")[0] == 2


def test_an_explanation_names_all_settings():
    text = explain("uce")
    assert "start token" in text and "neutral words" in text and "mean |row|^2 / width" in text
    for field in dataclasses.fields(uce.Settings):
        assert f"  {field.name} (" in text
    with pytest.raises(BadInput, match=r"Unknown method 'x'\. Known: uce"):
        explain("x")

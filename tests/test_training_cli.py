"""The command train: files, refusals, Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from erasure_core import load
from erasure_core.cli import main

ROOT = Path(__file__).resolve().parent.parent
LISTENING = """
import signal, sys
from erasure_core.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has its children ignore it
sys.exit(main(sys.argv[1:]))
"""
SHORT = ["--steps", "2", "--option", "grid=4, draws=2"]


@pytest.fixture(autouse=True)
def bundled(demo, monkeypatch):
    """The model that is loaded already."""
    monkeypatch.setattr("erasure_core.models.load_demo", lambda: demo)


def test_it_trains_saves_draws_previews_and_says_so(tmp_path, capsys):
    out = tmp_path / "new" / "star.safetensors"
    wanted = ["--concepts", "star | pentagram -> heart", "--concepts", "+ moon", "--out", str(out), *SHORT]
    assert main(["train", *wanted, "--rank", "2", "--previews", str(tmp_path / "seen"), "--every", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 steps of spm in " in said and "rank 2" in said and "star.safetensors (native" in said
    made = load(out)
    assert made.rank == 2 and made.gate["phrases"] == ["star", "pentagram"] and made.gate["neighbours"] == ["moon"]
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["00001.png", "00002.png"]
    assert list(out.parent.iterdir()) == [out]  # no state is left
    assert main(["train", *wanted]) == 1 and "exists" in capsys.readouterr().err


def test_a_configuration_says_it_all(tmp_path, capsys):
    (tmp_path / "prompts.yaml").write_text(
        "- target: 'star'\n  positive: 'star'\n  unconditional: ''\n  neutral: ''\n  action: 'erase_with_la'\n"
        "  guidance_scale: '2.0'\n  resolution: 64\n  batch_size: 1\n  dynamic_resolution: true\n  la_strength: 500\n"
        "  sampling_batch_size: 3\n"
    )
    config = tmp_path / "config.yaml"
    config.write_text(
        "prompts_file: 'prompts.yaml'\npretrained_model:\n  name_or_path: 'x'\n  v2: false\n  v_pred: false\n"
        "network:\n  rank: 1\n  alpha: 1.0\ntrain:\n  precision: 'float32'\n  noise_scheduler: 'ddim'\n"
        "  iterations: 2\n  lr: 0.001\n  optimizer: 'AdamW'\n  lr_scheduler: 'constant'\n  max_denoising_steps: 4\n"
    )
    out = tmp_path / "star.safetensors"
    assert main(["train", "--config", str(config), "--out", str(out), "--option", "draws=1"]) == 0
    made = load(out)
    assert made.recipe["method"] == "spm" and made.recipe["steps"] == 2 and made.gate["phrases"] == ["star"]
    assert made.recipe["options"]["eta"] == 2.0 and made.recipe["options"]["random_anchors"] == 3
    assert main(["train", "--config", str(config), "--concepts", "moon", "--out", str(tmp_path / "b")]) == 1
    assert "Leave out --concepts" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "says"), [
    (["--option", "steps=3"], "'steps' is an option of its own"),
    (["--option", "colour=3"], "'spm' has no option 'colour'"),
    (["--method", "dreambooth"], "Unknown method 'dreambooth'"),
    (["--every", "0"], "from 1 up"),
    (["--config", "nowhere.yaml"], "nowhere.yaml"),
])  # fmt: skip
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, says):
    concepts = [] if "--config" in arguments else ["--concepts", "star"]
    assert main(["train", *concepts, "--out", str(tmp_path / "a.safetensors"), *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and says in line
    assert not list(tmp_path.iterdir())


def test_methods_explain_themselves(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--explain", "esd"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "esd: " in said and "  eta (0 to 50; default chosen by the method)" in said


def test_ctrl_c_keeps_what_was_learned_and_the_same_command_goes_on(tmp_path, demo):
    """A real SIGINT to a real process; what goes on ends bitwise as what was never stopped."""
    files = {name: tmp_path / f"{name}.safetensors" for name in ("stopped", "whole")}

    def command(name):
        wanted = ["--concepts", "star -> heart", "--steps", "10", "--option", "grid=4, draws=2, lr=0.01"]
        return ["train", *wanted, "--out", str(files[name])]

    settings = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "bufsize": 0}
    started = [sys.executable, "-c", LISTENING, *command("stopped")]
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, **settings) as process:
        heard = b""
        while b"3/10" not in heard and process.poll() is None:
            heard += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        heard += process.stderr.read()
    assert process.returncode == 130, heard.decode()
    assert b"What was learned is in the file" in heard and b"stopped" in heard
    part = load(files["stopped"])
    assert 3 <= part.recipe["steps"] < 10 and any(bool(d.dense().any()) for d in part.weight_deltas.values())
    for name in files:
        assert main(command(name)) == 0
    one, other = (load(path) for path in files.values())
    assert one.recipe == other.recipe and one.recipe["steps"] == 10
    assert all(torch.equal(d.dense(), other.weight_deltas[n].dense()) for n, d in one.weight_deltas.items())
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files.values()}

"""The training recipe at its smallest: every stage learns, and a run that was killed ends with the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from erasure_core.checkpoint import bare_generator, read_state, write_state
from erasure_core.demo.architecture import load_tokenizer, same_layout
from erasure_core.demo.bundle import load_pipeline
from erasure_core.demo.captions import Grammar, caption
from erasure_core.demo.dataset import CaptionTokens
from erasure_core.demo.loop import Plan, Trainer
from erasure_core.demo.recipe import TINY, Run
from erasure_core.demo.train_autoencoder import reconstruction_psnr
from erasure_core.demo.train_denoiser import denoising_loss, signal_levels
from erasure_core.demo.world import random_scene
from erasure_core.errors import BadInput, CannotWrite, UnknownFormat

ROOT = Path(__file__).resolve().parent.parent


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def thirds(losses: list[float]) -> tuple[float, float]:
    part = len(losses) // 3
    return float(np.mean(losses[:part])), float(np.mean(losses[-part:]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, float]]:
    """A whole run, and how well the autoencoder drew held-out pictures (in dB) between its stages."""
    run = Run(TINY, tmp_path_factory.mktemp("whole"))
    quality = {"start": reconstruction_psnr(run.vae, TINY.supply, 16)}
    run.autoencoder()
    quality["autoencoder"] = reconstruction_psnr(run.vae, TINY.supply, 16)
    for stage in ("text_encoder", "denoiser", "decoder", "export", "detector"):
        getattr(run, stage)()
    quality["decoder"] = reconstruction_psnr(run.vae, TINY.supply, 16)
    return run, quality


@pytest.mark.parametrize("stage", ["text_encoder", "denoiser", "detector"])
def test_losses_fall(finished: tuple[Run, dict[str, float]], stage: str) -> None:
    first, last = thirds(finished[0].losses[stage])
    assert last < 0.98 * first


def test_autoencoder_learns_in_both_stages(finished: tuple[Run, dict[str, float]]) -> None:
    quality = finished[1]
    assert quality["start"] < quality["autoencoder"] < quality["decoder"]


def test_result_is_a_pipeline_like_the_bundled_one(finished: tuple[Run, dict[str, float]]) -> None:
    folder = finished[0].out / "model"
    assert same_layout(folder) == []
    pipe = load_pipeline(folder)
    picture = pipe("a red circle", num_inference_steps=2, height=64, width=64, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert pipe.vae.config.scaling_factor == pytest.approx(finished[0].vae.config.scaling_factor)


def test_a_killed_run_ends_with_the_same_weights(finished: tuple[Run, dict[str, float]], tmp_path: Path) -> None:
    command = [sys.executable, "tools/train_demo.py", "--out", str(tmp_path), "--budget", "tiny", "--stage", "export"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "checkpoints" / "denoiser.safetensors"
    give_up = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = read_state(checkpoint)
    assert state is not None
    assert 0 < len(state[0]["losses"]) < TINY.denoiser.steps
    assert not (tmp_path / "model").exists()
    folder = Run(TINY, tmp_path).run(["export"])
    assert files(folder) == files(finished[0].out / "model")


def test_other_settings_do_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    trainer = Trainer(module, Plan(steps=2, lr=0.1, every=1), tmp_path / "c.safetensors")
    trainer.run(lambda step: module(torch.ones(1, 2)).square().sum())
    with pytest.raises(BadInput, match="other settings"):
        Trainer(module, Plan(steps=3, lr=0.1, every=1), tmp_path / "c.safetensors")


def test_refining_needs_a_start(tmp_path: Path) -> None:
    from erasure_core.demo.recipe import REFINE

    with pytest.raises(BadInput, match="--start"):
        Run(REFINE, tmp_path)
    with pytest.raises(BadInput, match="no stage 'lunch'"):
        Run(TINY, tmp_path).run(["lunch"])


def test_checkpoints_are_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    assert read_state(path) is None
    write_state(path, {"x": torch.arange(3.0)}, {"a": 1})
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CannotWrite, match="disk is full"):
        write_state(path, {"x": torch.zeros(3)}, {"a": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(before[: len(before) - 4])
    with pytest.raises(UnknownFormat, match="damaged"):
        read_state(path)


def test_streams_depend_on_every_number() -> None:
    draws = [torch.rand(4, generator=bare_generator(*numbers)) for numbers in [(1, 2, 3), (1, 3, 2), (2, 2, 3), (1, 2)]]
    assert torch.equal(draws[0], torch.rand(4, generator=bare_generator(1, 2, 3)))
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_caption_tokens_are_the_tokenizers_own() -> None:
    tokenizer = load_tokenizer()
    tokens = CaptionTokens(tokenizer)
    grammar = Grammar(misspelt=0.3, implicit=0.3, tags=0.3)
    made = [caption(random_scene(np.random.default_rng([6, i])), np.random.default_rng(i), grammar) for i in range(60)]
    texts = ["", *(c.text for c in made)]
    ids, ends = tokens(texts)
    expected = tokenizer(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert ids.tolist() == expected
    assert [row.index(tokenizer.eos_token_id) for row in expected] == ends.tolist()
    for c in made:
        for attribute, position in tokens.last_pieces(c).items():
            said = tokenizer.decode(tokens(["" + c.text])[0][0, 1 : position + 1].tolist())
            assert said.replace(" ", "") == c.text[: c.ends[attribute]].replace(" ", "")


def test_noise_levels_and_weights_are_the_published_ones() -> None:
    from diffusers import DDIMScheduler

    from erasure_core.demo.architecture import SCHEDULER

    levels = signal_levels()
    torch.testing.assert_close(levels, DDIMScheduler.from_config(SCHEDULER).alphas_cumprod, rtol=1e-4, atol=1e-7)
    times = torch.tensor([0, 300, 999])
    latents, noise = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = 0.0
    for i, t in enumerate(times.tolist()):  # arXiv 2303.09556, equation for predicted noise: weight min(SNR, 5) / SNR
        snr = float(levels[t]) / (1 - float(levels[t]))
        wanted += min(snr, 5.0) / snr * float((0.5 - noise[i]).square().mean()) / 3
    loss = denoising_loss(lambda x, t, c: torch.full_like(x, 0.5), latents, latents, times, noise, levels)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)

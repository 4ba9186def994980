"""Whole weights made small: how good sketches are, what is kept, and that nothing is taken for something else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from erasure_core.errors import BadInput
from erasure_core.formats import load
from erasure_core.formats.compact import MAX_RANK, RANK, compact, rank_for
from erasure_core.formats.digests import digest_of
from erasure_core.formats.folder import open_header
from erasure_core.formats.imported import import_once, is_whole


def decaying(out, into, power, seed=0):
    """A matrix whose singular values fall as ``k**-power``, with their energies."""
    generator = torch.Generator().manual_seed(seed)
    short = min(out, into)
    u = torch.linalg.qr(torch.randn(out, short, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(into, short, generator=generator)).Q
    values = torch.arange(1, short + 1.0) ** -power
    return (u * values) @ v.T, values.double().square()


@pytest.mark.parametrize("power", [0.3, 1.0])
@pytest.mark.parametrize("shape", [(200, 600), (600, 200), (500, 420)])
def test_no_other_terms_of_that_rank_are_much_better(shape, power):
    """Eckart-Young: the best rank k misses the energy of the values behind k; sketches miss at most 3 % more of it."""
    matrix, energies = decaying(*shape, power)
    delta, lost = compact("x", matrix, 20)
    best = float(energies[20:].sum() / energies.sum())
    assert delta.rank == 20 and best <= lost * 1.001 and lost <= 1.03 * best
    change = matrix.double() - delta.up.double() @ delta.down.double()
    assert lost == pytest.approx(float(change.square().sum() / energies.sum()), rel=1e-3)


def test_no_more_terms_than_it_takes_and_the_same_every_time():
    matrix = decaying(300, 500, 0.5)[0][:, :5] @ torch.randn(5, 500, generator=torch.Generator().manual_seed(1))
    delta, lost = compact("x", matrix, 64)
    assert delta.rank <= 5 and lost <= 1e-3 and delta.up.dtype == torch.float16
    assert torch.equal(delta.up, compact("x", matrix, 64)[0].up)


def test_tiny_and_huge_numbers_and_convolutions_survive_half_precision():
    for size in (1e-7, 1e4):
        kernel = size * decaying(96, 64 * 9, 1.5)[0].reshape(96, 64, 3, 3)
        delta, lost = compact("x", kernel, 64)
        assert delta.shape == (96, 64, 3, 3) and lost <= 1.1e-3
        assert float((delta.dense() - kernel).norm() / kernel.norm()) == pytest.approx(lost**0.5, rel=1e-2)
    assert torch.equal(compact("x", torch.tensor([1e-9, 2.0]), 4)[0].diff, torch.tensor([1e-9, 2.0]))
    assert compact("x", torch.zeros(8, 8), 4)[1] == 0.0


def test_the_rank_follows_the_size_of_the_file():
    assert (
        rank_for([(320, 768)] * 16) == MAX_RANK and rank_for([(1280, 1280, 3, 3)] * 2000) == RANK and rank_for([]) > 0
    )


def esd(demo, folder, seed=0):
    """ESD-x of the bundled model as a file, and what it changes by canonical name."""
    generator, weights = torch.Generator().manual_seed(seed), demo.weights()
    names = [name for name in weights if ".attn2." in name]
    changes = {n: 0.05 * weights[n].std() * torch.randn(weights[n].shape, generator=generator) for n in names}
    save_file({n.removeprefix("unet."): weights[n] + changes[n] for n in names}, folder / "esd.safetensors")
    return open_header(folder / "esd.safetensors"), changes


def test_it_is_compared_once_and_then_read(tmp_path, demo):
    header, changes = esd(demo, tmp_path)
    assert is_whole(header)
    seen = []
    first = import_once(header, demo, tmp_path / "kept", "file", "base", progress=lambda *at: seen.append(at))
    assert not first.again and seen[-1] == (2 * len(changes), 2 * len(changes)) and first.path.parent.name == "kept"
    for name, delta in first.erasure.weight_deltas.items():
        assert float((delta.dense() - changes[name]).norm() / changes[name].norm()) < 0.035
    again = import_once(header, None, tmp_path / "kept", "file", "base", concept="a circle")
    assert again.again and again.path == first.path and again.erasure.gate["phrases"] == ["a circle"]
    for name, delta in first.erasure.weight_deltas.items():
        assert torch.equal(delta.dense(), again.erasure.weight_deltas[name].dense())
    assert again.erasure.base["fingerprint"] == "base" and again.erasure.base["imported_from"] == "file"
    assert 0 < again.erasure.diagnostics["imported"]["delta_residual"] < 0.035
    assert load(first.path).weight_deltas.keys() == changes.keys(), "it is an ordinary native file"
    for other in (("other", "base"), ("file", "other")):
        assert not import_once(header, demo, tmp_path / "kept", *other).again
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_damaged_copy_is_made_anew_and_an_unwritable_folder_said(tmp_path, demo):
    header, _ = esd(demo, tmp_path)
    first = import_once(header, demo, tmp_path / "kept", "file", "base")
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:500])
    assert not import_once(header, demo, tmp_path / "kept", "file", "base").again
    assert first.path.read_bytes() == whole
    (tmp_path / "no folder").write_bytes(b"")
    done = import_once(header, demo, tmp_path / "no folder", "file", "base")
    assert done.path is None and done.trouble and done.erasure.weight_deltas


@pytest.mark.parametrize("at", [1, 12])
def test_stopping_leaves_nothing_behind(tmp_path, demo, at):
    header, _ = esd(demo, tmp_path)

    def stop(done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_once(header, demo, tmp_path / "kept", "file", "base", progress=stop)
    assert not (tmp_path / "kept").exists()


def test_much_that_is_left_out_is_a_warning(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shape = (1280, 768)
    from erasure_core.keys import SD1

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    base = {n: torch.zeros(()).expand(s) for n, s in SD1.shapes().items()}
    base[name] = torch.randn(shape, generator=generator)
    change = 0.005 * torch.randn(shape, generator=generator)  # of full rank
    save_file({name.removeprefix("unet."): base[name] + change}, tmp_path / "x.safetensors")
    done = import_once(open_header(tmp_path / "x.safetensors"), base, tmp_path / "kept", "file", "base")
    notes = done.erasure.diagnostics["imported"]
    assert notes["delta_residual"] > 0.3 and notes["doubt"].startswith("The low-rank form leaves out")
    assert "doubt" not in load(tmp_path / "x.safetensors", base=base).diagnostics["imported"]


def test_hashes_of_large_files_are_remembered_until_they_change(tmp_path):
    path, memory = tmp_path / "x.bin", tmp_path / "sub" / "digests.json"
    path.write_bytes(b"a" * (1 << 24))
    calls = []
    first = digest_of(path, memory, lambda: calls.append(1))
    assert len(calls) == 4 and len(json.loads(memory.read_text())) == 1
    assert digest_of(path, memory, lambda: calls.append(1)) == first and len(calls) == 4
    path.write_bytes(b"b" * (1 << 24))
    assert digest_of(path, memory, lambda: calls.append(1)) != first and len(calls) == 8
    memory.write_bytes(b"[broken")
    assert digest_of(path, memory) == digest_of(path)
    small = tmp_path / "small"
    small.write_bytes(b"")
    assert digest_of(small, tmp_path / "none.json") and not (tmp_path / "none.json").exists()


def test_a_file_that_needs_a_base_and_has_none_says_so(tmp_path, demo):
    header, _ = esd(demo, tmp_path)
    with pytest.raises(BadInput, match="connect that checkpoint's MODEL to 'base' of Load Membrane"):
        import_once(header, None, tmp_path / "kept", "file", "base")
    assert load_file(tmp_path / "esd.safetensors")

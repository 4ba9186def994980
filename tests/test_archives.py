"""Files of ``torch.save``: read if they are nothing but tensors, never run, and never read whole."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

from erasure_core.errors import UnknownFormat
from erasure_core.formats.files import read_header, read_tensors

KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive with ``change(name, bytes)`` put in place of each entry; entries of None are left out."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            new = change(name, content)
            if new is not None:
                archive.writestr(name, new)
    return path


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "unet", "module", "parameter", "nested modules"])
def test_tensors_are_found_however_they_are_wrapped(tmp_path, wrap):
    tensor = torch.arange(6.0).reshape(2, 3)
    content = {
        "plain": {KEY: tensor, "epoch": 3, "name": "x"},
        "state_dict": {"state_dict": {KEY: tensor}, "global_step": 7},
        "unet": {"unet": {KEY: tensor}},
        "module": torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2, bias=False)}).state_dict(),
        "parameter": {KEY: torch.nn.Parameter(tensor)},
        "nested modules": {f"unet.{KEY.removesuffix('.weight')}": {"weight": tensor}},
    }[wrap]
    name = {"unet": f"unet.{KEY}", "nested modules": f"unet.{KEY}", "module": "a.weight"}.get(wrap, KEY)
    header = read_header(saved(tmp_path / "x.pt", content))
    assert header.shapes == {name: (2, 3)} and header.metadata == {}
    if wrap != "module":
        assert torch.equal(read_tensors(header)[name], tensor)


def trap(path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(path),))

    return Trap()


@pytest.mark.parametrize("place", ["value", "key beside tensors"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_program_inside_is_named_and_not_run(tmp_path, place, protocol):
    sprung = tmp_path / "sprung"
    content = trap(sprung) if place == "value" else {KEY: torch.zeros(2), "x": trap(sprung)}
    path = saved(tmp_path / "x.pt", content, pickle_protocol=protocol)
    with pytest.raises(UnknownFormat, match=r"x\.pt is a pickle that asks for more than tensors .* could run any"):
        read_header(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert sprung.exists()


def test_what_weights_only_would_allow_but_tensors_do_not_need_is_refused(tmp_path):
    path = saved(tmp_path / "x.pt", {KEY: torch.zeros(3, 3).to_sparse()})
    with pytest.raises(UnknownFormat, match=r"asks for more than tensors \(torch\._utils\._rebuild_sparse_tensor\)"):
        read_header(path)


def second_program(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(trap(path)))
    return path


def huge(path):
    """A tensor of a million rows that all lie on the same two numbers."""
    return saved(path, {KEY: torch.zeros(2).expand(1_000_000, 2)})


BROKEN = {
    "old pickle": (
        lambda p: saved(p, {KEY: torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "PyTorch pickle of the old kind .* never opens one",
    ),
    "other zip": (lambda p: rewritten(saved(p, {}), lambda n, b: None if n.endswith(".pkl") else b), "not one that"),
    "two programs": (lambda p: second_program(saved(p, {KEY: torch.zeros(2)})), "not one that torch.save writes"),
    "compressed": (
        lambda p: rewritten(saved(p, {KEY: torch.zeros(2)}), lambda n, b: b, zipfile.ZIP_DEFLATED),
        "not one that torch.save writes",
    ),
    "compiled": (lambda p: torch.jit.save(torch.jit.script(torch.nn.Identity()), str(p)) or p, "compiled program"),
    "broken program": (
        lambda p: rewritten(saved(p, {KEY: torch.zeros(2)}), lambda n, b: b[:-9] if n.endswith(".pkl") else b),
        "its instructions cannot be read",
    ),
    "tensor missing": (
        lambda p: rewritten(saved(p, {KEY: torch.zeros(9)}), lambda n, b: None if n.endswith("data/0") else b),
        "its tensors cannot be rebuilt",
    ),
    "tensor too large": (huge, "is larger than the whole file"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("ignore:.*torch.jit")  # its category differs between versions
def test_anything_else_is_refused_with_a_sentence(tmp_path, kind):
    make, message = BROKEN[kind]
    path = make(tmp_path / "x.pt")
    with pytest.raises(UnknownFormat, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith("x.pt ") and "\n" not in str(caught.value)


def test_every_kind_of_truncation_is_found(tmp_path):
    path = saved(tmp_path / "x.pt", {KEY: torch.zeros(40)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(UnknownFormat):
            read_header(path)


def test_nan_is_refused(tmp_path):
    path = saved(tmp_path / "x.pt", {KEY: torch.tensor([1.0, float("nan")])})
    with pytest.raises(UnknownFormat, match="NaN or infinite"):
        read_tensors(read_header(path))


def own_memory():
    """Bytes of this process that are not pages of a file."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_tensors_stay_on_disk_until_they_are_asked_for(tmp_path):
    path = saved(tmp_path / "x.pt", {KEY: torch.ones(4, 4), "big": torch.zeros(50_000_000)})
    before = own_memory()
    header = read_header(path)
    assert header.shapes["big"] == (50_000_000,)
    assert torch.equal(read_tensors(header, [KEY])[KEY], torch.ones(4, 4))
    assert own_memory() - before < 50e6

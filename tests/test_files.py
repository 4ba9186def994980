"""Damaged, foreign and unreachable files, and saving that is all or nothing."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erasure_core.atomic import atomic_write
from erasure_core.errors import CannotWrite, UnknownFormat
from erasure_core.formats import load
from erasure_core.formats.files import read_header, read_tensors

ROOT = Path(__file__).parents[1]
GOOD = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
NOBODY = 65534


def put(path, content):
    path.write_bytes(content)
    return path


@pytest.fixture
def good(tmp_path):
    save_file(GOOD, tmp_path / "good.safetensors", {"note": "hello"})
    return tmp_path / "good.safetensors"


@pytest.fixture
def open_folder():
    """A folder that other users can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["plain.safetensors", "Müßiggang 🦊 'x'.safetensors", "名前.safetensors"])
def test_reading_a_whole_file(good, name):
    header = read_header(good.rename(good.with_name(name)))
    assert (header.shapes, header.dtypes) == ({"a": (2, 3), "b": (4,)}, {"a": "F32", "b": "F16"})
    assert header.metadata == {"note": "hello"}
    tensors = read_tensors(header)
    assert all(torch.equal(tensors[key], GOOD[key]) for key in GOOD)


def zip_pickle(folder):
    torch.save({"a": torch.zeros(2)}, folder / "model.pt")
    return folder / "model.pt"


DAMAGED = {
    "empty": (lambda d: put(d / "empty.safetensors", b""), "empty"),
    "short": (lambda d: put(d / "short.safetensors", b"abc"), "not a safetensors file"),
    "text": (lambda d: put(d / "page.safetensors", b"<!DOCTYPE html><html>not found</html>"), "not a safetensors"),
    "huge header": (
        lambda d: put(d / "huge.safetensors", (1 << 60).to_bytes(8, "little") + b"{" + b" " * 64),
        "header of 1152921504606846976 bytes",
    ),
    "header longer than file": (
        lambda d: put(d / "long.safetensors", (5000).to_bytes(8, "little") + b'{"a":'),
        "cut off",
    ),
    "broken header": (
        lambda d: put(d / "bad.safetensors", (8).to_bytes(8, "little") + b'{"a":1,}'),
        "not a safetensors",
    ),
    "deep header": (
        lambda d: put(d / "deep.safetensors", (90_000).to_bytes(8, "little") + b'{"a":' + b"[" * 89_995),
        "not a safetensors",
    ),
    "no offsets": (
        lambda d: put(d / "no.safetensors", (25).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}    '),
        "not a safetensors",
    ),
    "pickle": (lambda d: put(d / "net.ckpt", pickle.dumps({"a": [1.0]})), "pickle .* never opens"),
    "zip of unknown tensors": (zip_pickle, r"holds 1 tensors that Membrane does not know \(first: a\)"),
    "folder": (lambda d: d, "is a folder"),
    "missing": (lambda d: d / "nowhere.safetensors", "does not exist"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_named_in_one_sentence(tmp_path, kind):
    make, message = DAMAGED[kind]
    path = make(tmp_path)
    with pytest.raises(UnknownFormat, match=message) as caught:
        load(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path.parent) not in str(caught.value)


def test_a_pipeline_folder_is_recognised(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnknownFormat, match="whole pipeline"):
        load(tmp_path)


def test_a_header_of_128_bytes_is_no_pickle(tmp_path):
    text = json.dumps({"__metadata__": {"x": "y" * 20}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path = put(tmp_path / "x.safetensors", b"\x80" + bytes(7) + text.encode().ljust(128) + bytes(4))
    assert read_header(path).shapes == {"a": (1,)}


def test_every_truncation_of_a_file_is_found(good):
    whole = good.read_bytes()
    for length in range(len(whole)):
        good.write_bytes(whole[:length])
        with pytest.raises(UnknownFormat):
            read_tensors(read_header(good))


def test_overlapping_tensors_are_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps({"a": entry, "b": entry}).encode()
    path = put(tmp_path / "x.safetensors", len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UnknownFormat, match=r"x\.safetensors is a damaged safetensors file"):
        read_tensors(read_header(path))


def test_numbers_whose_sum_is_too_large_are_sound(tmp_path):
    save_file({"a": torch.full((4,), 3e38), "b": torch.full((4,), -3e38)}, tmp_path / "n.safetensors")
    assert read_tensors(read_header(tmp_path / "n.safetensors"))["a"][0] == torch.tensor(3e38)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_refused_with_its_tensor(tmp_path, value, dtype):
    save_file({"a": torch.ones(2), "b": torch.tensor([1, value], dtype=dtype)}, tmp_path / "n.safetensors")
    with pytest.raises(UnknownFormat, match=r"NaN or infinite .* 1 of 2 tensors \(first: b\)"):
        read_tensors(read_header(tmp_path / "n.safetensors"))


def as_somebody(code, *arguments):
    """Run ``code``, which drops to a user whom permissions bind once it has imported what it needs."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="permission bits of other systems")
def test_no_permission(open_folder):
    locked, secret = open_folder / "locked", open_folder / "secret.safetensors"
    locked.mkdir()
    put(locked / "kept.safetensors", b"old")
    save_file(GOOD, secret)
    locked.chmod(0o555)
    secret.chmod(0o000)
    out = as_somebody(
        "import os, sys\n"
        "from erasure_core.errors import MembraneError\n"
        "from erasure_core.atomic import atomic_write\nfrom erasure_core.formats.files import read_header\n"
        f"if os.geteuid() == 0: os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "for act in (lambda: read_header(sys.argv[1]), lambda: atomic_write(sys.argv[2], lambda s: s.write(b'new'))):\n"
        "    try:\n"
        "        act()\n"
        "    except MembraneError as error:\n"
        "        print(type(error).__name__, error)\n",
        secret,
        locked / "kept.safetensors",
    )
    locked.chmod(0o755)
    read, written = out.splitlines()
    assert read.startswith("UnknownFormat secret.safetensors may not be read by this user.")
    assert written.startswith("CannotWrite kept.safetensors was not saved: there is no permission to write there.")
    assert [(p.name, p.read_bytes()) for p in locked.iterdir()] == [("kept.safetensors", b"old")]


def test_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        target = disk / "membrane.safetensors"
        atomic_write(target, lambda stream: stream.write(b"old" * 1000))
        with pytest.raises(CannotWrite, match=r"membrane.safetensors was not saved: the disk is full"):
            atomic_write(target, lambda stream: stream.write(bytes(200_000)))
        assert target.read_bytes() == b"old" * 1000
        assert list(disk.iterdir()) == [target]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_errors_while_writing_leave_the_old_file(tmp_path, number):
    target = put(tmp_path / "kept.bin", b"old")

    def writer(stream):
        stream.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(CannotWrite, match=r"kept\.bin was not saved"):
        atomic_write(target, writer)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("kept.bin", b"old")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_interruption_leaves_the_old_file(tmp_path, error):
    target = put(tmp_path / "kept.bin", b"old")

    def writer(stream):
        stream.write(b"half")
        raise error

    with pytest.raises(error):
        atomic_write(target, writer)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("kept.bin", b"old")]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no/such/x.bin", "the folder 'such' does not exist"),
        ("file/x.bin", "'file' is not a folder"),
        ("dir", "is a folder"),
    ],
)
def test_places_where_nothing_can_be_saved(tmp_path, target, message):
    (tmp_path / "dir").mkdir()
    put(tmp_path / "file", b"")
    with pytest.raises(CannotWrite, match=message):
        atomic_write(tmp_path / target, lambda stream: stream.write(b"new"))


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(CannotWrite, match="too long"):
        atomic_write(tmp_path / ("x" * 300), lambda stream: stream.write(b"new"))


@pytest.mark.parametrize("name", ["x.bin", "🦊" * 60, "Grüße an alle.bin"])
def test_replacing_keeps_permissions_and_leaves_nothing_else(tmp_path, name):
    target = put(tmp_path / name, b"old")
    target.chmod(0o640)
    assert atomic_write(target, lambda stream: stream.write(b"new")) == target
    assert target.stat().st_mode & 0o777 == 0o640
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"new")]


def test_a_link_stays_a_link(tmp_path):
    put(tmp_path / "real.bin", b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    atomic_write(tmp_path / "link.bin", lambda stream: stream.write(b"new"))
    assert (tmp_path / "link.bin").is_symlink() and (tmp_path / "real.bin").read_bytes() == b"new"


def test_what_a_killed_save_left_is_taken_away_later(tmp_path):
    old, young = put(tmp_path / ".x.bin.1-a.part", b""), put(tmp_path / ".x.bin.2-b.part", b"")
    os.utime(old, (0, 0))
    atomic_write(tmp_path / "x.bin", lambda stream: stream.write(b"new"))
    assert not old.exists() and young.exists()  # the young one may be another process at work


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_killed_while_saving_over_and_over(tmp_path):
    """A child saves two erasures in turn; killed at forty random moments, the file is one of them, whole."""
    code = """
import os, random, signal, sys, time
import torch
from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor
from erasure_core.formats import save
target = sys.argv[1]
def made(seed):
    torch.manual_seed(seed)
    return Erasure(maps={"clip_l": EmbeddingMap("clip_l", (MapFactor(torch.randn(64, 768), torch.randn(768, 64)),))})
pair = made(1), made(2)
whole = []
for erasure in pair:
    save(erasure, target)
    whole.append(open(target, "rb").read())
random.seed(0)
seen = set()
for _ in range(40):
    child = os.fork()
    if child == 0:
        while True:
            for erasure in pair:
                save(erasure, target)
    time.sleep(random.uniform(0.005, 0.04))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    seen.add(whole.index(open(target, "rb").read()))
print(sorted(seen))
"""
    target = tmp_path / "x.safetensors"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[0, 1]"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".part"] == [target.name]

"""A real ComfyUI for the tests: where it is, what it is given, and its server. Its library is in ``library.py``.

``COMFYUI_PATH`` names the checkout, ``COMFYUI_PYTHON`` the interpreter that can run it. The test process itself never
imports anything of the host.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK = "membrane-erasure.test"  # the pack's folder in the host; a name that is no identifier is the hard case
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
NOT_SHIPPED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "out", "build", "dist", "*.egg-info")


def host_path() -> str:
    """The ComfyUI checkout; skips the test where there is none."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("COMFYUI_PATH is not set")
    return path


def host_python() -> str:
    """The interpreter that runs ComfyUI."""
    host_path()
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def host_environment() -> dict[str, str]:
    """One thread, because spinning threads on shared cores are slow and results must repeat; no bytecode anywhere."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def host_versions() -> str:
    """Which ComfyUI the tests run in, and its torch."""
    text = (Path(host_path()) / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "(.+?)"', text)
    code = "import importlib.metadata as m; print(m.version('torch'))"
    torch = subprocess.run([host_python(), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return f"ComfyUI {found.group(1) if found else 'of unknown version'} (torch {torch})"


def copy_of_pack(folder: Path) -> Path:
    """What a user's clone holds, so that a test sees every file that is added or changed in it."""
    shutil.copytree(ROOT, folder, ignore=NOT_SHIPPED)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and change time of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


class Server:
    """A running ComfyUI: its base folder, its log and its answers."""

    def __init__(self, base: Path, port: int, process: subprocess.Popen) -> None:
        self.base, self.url, self.process = base, f"http://127.0.0.1:{port}", process

    @property
    def log(self) -> str:
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, timeout: float = 30) -> object:
        """The JSON that the server answers."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        try:
            self.get("/system_stats", timeout=2)
        except OSError:
            return False
        return True


@contextmanager
def server(base: Path, packs: dict[str, Path]):
    """ComfyUI with ``packs`` (name -> folder) symlinked into its custom nodes; it writes only into ``base``."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True)
    for name, folder in packs.items():
        (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [host_python(), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", f"sqlite:///{base}/comfyui.db"]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    with (base / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=host_path(), env=host_environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    running = Server(base, port, process)
    try:
        _wait_until_ready(running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(running: Server) -> None:
    for _ in range(600):
        assert running.process.poll() is None, running.log[-3000:]
        if running.answers():
            return
        time.sleep(0.5)
    raise AssertionError("ComfyUI did not answer within five minutes:\n" + running.log[-3000:])

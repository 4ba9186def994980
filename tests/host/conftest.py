"""Fixtures of the tests that need a real ComfyUI; without ``COMFYUI_PATH`` they skip with that reason."""

import pytest
from comfy import PACK, copy_of_pack, host_path, run_in_comfy, server, snapshot


@pytest.fixture
def comfy_python():
    """Runs code in the host's interpreter and returns what it printed."""
    host_path()
    return run_in_comfy


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """A fresh copy of the pack, as a user's clone."""
    host_path()
    return copy_of_pack(tmp_path_factory.mktemp("clone") / "checkout")


@pytest.fixture(scope="session")
def pack_files(pack):
    """What was in the pack before any host saw it."""
    return snapshot(pack)


@pytest.fixture(scope="session")
def comfy_server(tmp_path_factory, pack, pack_files):
    """One server for all tests, with the pack symlinked under the name ``PACK``."""
    with server(tmp_path_factory.mktemp("base") / "comfyui", {PACK: pack}) as running:
        yield running

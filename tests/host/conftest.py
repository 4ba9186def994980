"""Fixtures of the tests that need a real ComfyUI; without ``COMFYUI_PATH`` they skip with that reason."""

import os
from pathlib import Path

import pytest
from comfy import PACK, copy_of_pack, host_path, host_versions, server, snapshot
from library import Library


def pytest_report_header():
    """The versions, where there is a host."""
    return host_versions() if os.environ.get("COMFYUI_PATH") else "ComfyUI: none (COMFYUI_PATH is not set)"


@pytest.fixture(scope="session")
def in_comfy():
    """Runs a file of ``scripts`` in the host's interpreter and returns its answer."""
    host_path()
    library = Library()
    yield library.ask
    library.close()


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
    """One server for all tests, with the pack symlinked under the name ``PACK``, and our probe."""
    packs = {PACK: pack, "probe": Path(__file__).parent / "probe_pack"}
    with server(tmp_path_factory.mktemp("base") / "comfyui", packs) as running:
        yield running

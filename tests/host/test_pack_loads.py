"""The pack in a real ComfyUI: it loads without a word, leaves its folder alone, and its installer installs nothing."""

import json
import re
import subprocess

from comfy import PACK, host_environment, host_python, snapshot

HAS = "import importlib.util as u, json; print(json.dumps([n for n in {!r} if u.find_spec(n) is None]))"
INSTALLED = "import importlib.metadata as m; print(sorted((d.name, d.version) for d in m.distributions()))"
DEMO = ["torch", "safetensors", "numpy", "diffusers", "transformers", "PIL", "tqdm"]


def ask_host(*arguments, cwd=None, check=True):
    return subprocess.run(
        [host_python(), *arguments], cwd=cwd, env=host_environment(), capture_output=True, text=True, check=check
    )


def test_the_pack_loads_without_a_word(comfy_server):
    lines = [line for line in comfy_server.log.splitlines() if PACK in line]
    assert len(lines) == 1, lines
    found = re.fullmatch(r"\s*(\d+\.\d) seconds: .*", lines[0])
    assert found, lines[0]
    assert "erasure_core" not in comfy_server.log


def test_the_server_knows_our_nodes_and_nothing_else_by_our_name(comfy_server):
    nodes = comfy_server.get("/object_info", timeout=120)
    assert "KSampler" in nodes
    ours = [name for name, info in nodes.items() if PACK in info["python_module"]]
    assert sorted(ours) == sorted(name for name in nodes if name.startswith("Membrane"))


def test_loading_writes_nothing_into_the_pack(comfy_server, pack, pack_files):
    assert comfy_server.answers()
    assert snapshot(pack) == pack_files


def test_the_installer_installs_nothing_and_names_what_is_missing(pack, tmp_path):
    place = tmp_path / "custom_nodes" / "membrane"
    place.parent.mkdir()
    place.symlink_to(pack, target_is_directory=True)
    before, installed = snapshot(pack), ask_host("-c", INSTALLED).stdout
    lacking = json.loads(ask_host("-c", HAS.format([*DEMO, "pytest"])).stdout)
    hook = ask_host(str(place / "install.py"), cwd=tmp_path)
    assert (hook.stdout == "") == (not {"torch", "safetensors", "numpy"} & set(lacking))
    demo = ask_host(str(place / "install.py"), "test", "--version", cwd=tmp_path, check=False)
    assert demo.returncode == (1 if lacking else 0)
    for name in lacking:
        assert name.replace("PIL", "Pillow") in demo.stderr
    assert snapshot(pack) == before
    assert ask_host("-c", INSTALLED).stdout == installed


def test_the_core_imports_in_the_hosts_environment(pack):
    code = "import erasure_core, json, sys; print(json.dumps([m for m in ('diffusers',) if m in sys.modules]))"
    assert json.loads(ask_host("-c", code, cwd=pack).stdout) == []

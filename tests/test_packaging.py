"""What is shipped, what importing it costs, and the limits that keep it readable."""

import ast
import importlib
import importlib.util
import json
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import erasure_core

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "erasure_core"
OUTSIDE = {".git", ".venv", "build", "dist", "out"}
SOURCES = sorted(p for p in ROOT.rglob("*.py") if not OUTSIDE & set(p.relative_to(ROOT).parts))
CORE_SOURCES = sorted(CORE.rglob("*.py"))
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(CORE)], "erasure_core.") if not m.name.endswith("__main__"))
HEAVY = {"torch", "diffusers", "transformers", "safetensors", "numpy", "PIL"}
AT_TOP = {"torch", "numpy", "safetensors", "PIL", *sys.stdlib_module_names}

IMPORT_AS_HOST = """
import importlib.util, json, sys
root = sys.argv[1]
spec = importlib.util.spec_from_file_location("some_x_path", root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec)
sys.modules["some_x_path"] = pack
spec.loader.exec_module(pack)
print(json.dumps([sorted(sys.modules), list(pack.NODE_CLASS_MAPPINGS), pack.WEB_DIRECTORY]))
"""


def relative(path):
    return str(path.relative_to(ROOT))


def imports(node):
    """(absolute name, level) of every import in a tree."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, 0) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or "", child.level


def at_import_time(tree):
    """The statements of a module that run when it is imported, without what only a type checker reads."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_the_wheel_holds_only_the_core_with_the_demo_weights(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed here, so no wheel can be built")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "install.py"):
        shutil.copy(ROOT / name, source)
    for name in ("erasure_core", "nodes", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"erasure_core"}
    shipped = {f"erasure_core/{path.relative_to(CORE).as_posix()}" for path in (CORE / "demo" / "weights").rglob("*.*")}
    shipped |= {f"erasure_core/wordlists/{path.name}" for path in (CORE / "wordlists").iterdir()}
    assert "erasure_core/wordlists/everyday.txt" in shipped
    shipped |= {f"erasure_core/{path.relative_to(CORE).as_posix()}" for path in CORE.rglob("*.json")}
    assert any(name.endswith("unet/diffusion_pytorch_model.safetensors") for name in shipped)
    assert {"erasure_core/presets/nudity.json", "erasure_core/closed_form/tables/coreference.json"} <= shipped
    assert shipped | {"erasure_core/__main__.py"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_the_host_imports_the_pack_without_heavy_modules():
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_AS_HOST, str(ROOT)], capture_output=True, text=True, check=True
    )
    loaded, nodes, web = json.loads(done.stdout)
    assert not HEAVY & set(loaded)
    assert "some_x_path.nodes" in loaded and "nodes" not in loaded
    assert all(name.startswith("Membrane") for name in nodes)
    assert web == "./web"


def test_a_collector_may_import_the_root_file_by_its_path():
    spec = importlib.util.spec_from_file_location("__init__", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.WEB_DIRECTORY == "./web"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    assert importlib.import_module(name).__name__ == name


def test_importing_the_core_does_not_import_backends():
    code = "import erasure_core, sys; print([m for m in ('diffusers', 'transformers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert erasure_core.__doc__


@pytest.mark.parametrize("path", CORE_SOURCES, ids=relative)
def test_core_files_import_only_what_every_host_has(path):
    tree = parsed(path)
    top = {name.split(".")[0] for node in at_import_time(tree) for name, level in imports(node) if level == 0}
    assert top <= AT_TOP, "import it inside the function that needs it"
    absolute = {name.split(".")[0] for name, level in imports(tree) if level == 0}
    assert not absolute & {"erasure_core", "nodes", "comfy", "folder_paths"}, "imports inside the core are relative"
    if path.relative_to(CORE).parts[0] not in ("backends", "demo"):
        assert not absolute & {"diffusers", "transformers"}, "only backends and the demo know these"


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").rglob("*.py")), ids=relative)
def test_nodes_import_the_core_relatively(path):
    assert not {name.split(".")[0] for name, level in imports(parsed(path)) if level == 0} & {"erasure_core", "nodes"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    functions = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{f.name}: {f.end_lineno - f.lineno + 1}" for f in functions if f.end_lineno - f.lineno + 1 > 80]
    assert not long


def test_requirements_add_nothing_to_a_host():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.strip() and not line.startswith("#")] == []

"""install.py from the outside: what a newcomer, a developer and a host see. Nothing here needs a network."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "torch": "torch",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "Pillow": "PIL",
    "tqdm": "tqdm",
}
MAIN = "import os, sys\nprint('ran', sys.prefix, os.getcwd(), sys.argv[1:])\n"


def load_install():
    spec = importlib.util.spec_from_file_location("membrane_install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clean_environment(**extra):
    hidden = ("PYTHONPATH", "MEMBRANE_TORCH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("PIP_")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **extra}


def start(folder, *arguments, python=sys.executable, cwd=None, **extra):
    return subprocess.run(
        [str(python), str(folder / "install.py"), *arguments],
        cwd=cwd or folder,
        env=clean_environment(**extra),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def checkout(folder):
    """A stand-in for a clone: the real install.py and a package whose command only tells how it was called."""
    (folder / "erasure_core").mkdir(parents=True)
    shutil.copy(ROOT / "install.py", folder)
    (folder / "erasure_core" / "__init__.py").write_text("")
    (folder / "erasure_core" / "__main__.py").write_text(MAIN)
    return folder


def bare_venv(folder):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An interpreter without any package."""
    return bare_venv(tmp_path_factory.mktemp("bare") / "env")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder of empty packages by the names that install.py asks for."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, module in PACKAGES.items():
        info = f"{name}-99.0.dist-info"
        with zipfile.ZipFile(folder / f"{name}-99.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


def test_without_arguments_it_is_silent_where_all_is_there_and_changes_nothing(tmp_path):
    folder = checkout(tmp_path / "clone")
    before = files_under(tmp_path)
    done = start(folder, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_under(tmp_path) == before


def test_without_arguments_it_names_what_is_missing_and_changes_nothing(tmp_path, bare):
    folder = checkout(tmp_path / "clone")
    before = files_under(tmp_path)
    done = start(folder, python=bare)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "lacks torch>=2.2, safetensors>=0.4, numpy>=1.26; nothing was installed" in done.stdout
    assert "install.py demo" in done.stdout
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("parent", ["custom_nodes", "extensions"])
@pytest.mark.parametrize("command", ["demo", "test"])
def test_inside_a_host_nothing_is_installed(tmp_path, bare, parent, command):
    folder = checkout(tmp_path / parent / "membrane")
    before = files_under(tmp_path)
    done = start(folder, command, python=bare)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    for name in ("torch", "diffusers", "Pillow", *(["pytest"] if command == "test" else [])):
        assert name in done.stderr
    assert f'"{bare}" -m pip install "torch>=2.2"' in done.stderr
    assert files_under(tmp_path) == before


def test_a_host_is_known_by_its_search_path_and_a_symlinked_pack_by_its_place(tmp_path, bare):
    folder = checkout(tmp_path / "clone")
    host = tmp_path / "webui"
    (host / "modules").mkdir(parents=True)
    (host / "modules" / "launch_utils.py").write_text("")
    assert "this is a host's environment" in start(folder, "demo", python=bare, PYTHONPATH=str(host)).stderr
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "membrane").symlink_to(folder, target_is_directory=True)
    linked = start(tmp_path / "custom_nodes" / "membrane", "demo", python=bare)
    assert "this is a host's environment" in linked.stderr
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["--fast"], "required: demo | test"),
        (["demo", "--speed", "9"], "unknown argument --speed"),
        (["demo", "circle"], "unknown argument circle"),
        (["demo", "--concept"], "expected one argument"),
    ],
)
def test_bad_arguments_give_two_and_a_sentence(tmp_path, bare, arguments, sentence):
    folder = checkout(tmp_path / "clone")
    done = start(folder, *arguments, python=bare)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / ".venv").exists()


def test_help_names_both_commands(tmp_path):
    done = start(checkout(tmp_path / "clone"), "--help")
    assert done.returncode == 0
    assert "install.py demo" in done.stdout and "install.py test" in done.stdout and "MEMBRANE_TORCH" in done.stdout


def test_an_interpreter_that_has_everything_is_used_from_any_folder(tmp_path):
    folder = checkout(tmp_path / "clone")
    done = start(folder, "demo", "--concept", "star", "--anchor", "a heart", "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = f"ran {sys.prefix} {tmp_path} ['demo', '--concept', 'star', '--anchor', 'a heart', '--out', 'x']\n"
    assert done.stdout == expected
    assert not (folder / ".venv").exists()


def test_tests_get_their_arguments_and_their_exit_code_comes_back(tmp_path):
    folder = checkout(tmp_path / "custom_nodes" / "membrane")
    (folder / "test_two.py").write_text("def test_good(): pass\ndef test_bad(): raise ValueError\n")
    before = files_under(folder)
    good = start(folder, "test", "-q", "-k", "good", cwd=tmp_path)
    assert good.returncode == 0 and "1 passed" in good.stdout
    bad = start(folder, "test", "-q")
    assert bad.returncode == 1 and "1 failed, 1 passed" in bad.stdout
    assert files_under(folder) == before


def test_an_environment_is_made_once_and_a_broken_one_repaired(tmp_path, bare, wheels):
    folder = checkout(tmp_path / "clone")
    half = folder / ".venv"
    half.mkdir()  # as an interrupted first attempt leaves it: the marker is there but empty
    (half / "membrane.txt").write_text("")
    (half / "rubbish").write_text("")
    first = start(folder, "demo", python=bare, **wheels, MEMBRANE_TORCH="torch==99.0")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Making" in first.stdout and "Installing torch==99.0, " in first.stdout
    assert f"ran {half} " in first.stdout
    assert not (half / "rubbish").exists()
    again = start(folder, "demo", python=bare, **wheels, MEMBRANE_TORCH="torch==99.0")
    assert again.returncode == 0 and again.stdout == f"ran {half} {folder} ['demo']\n"
    failed = start(folder, "test", python=bare, **wheels, MEMBRANE_TORCH="torch==99.0")  # there is no wheel of pytest
    assert failed.returncode == 1
    assert "error: pip could not install the packages" in failed.stderr and "Traceback" not in failed.stderr
    assert start(folder, "demo", python=bare, MEMBRANE_TORCH="torch==99.0").returncode == 0


def test_an_environment_of_somebody_else_is_never_changed(tmp_path, bare):
    folder = checkout(tmp_path / "clone")
    bare_venv(folder / ".venv")
    before = files_under(folder)
    done = start(folder, "demo", python=bare)
    assert done.returncode == 1
    assert "was not made by this script and lacks some of torch" in done.stderr
    assert files_under(folder) == before


def test_an_old_package_counts_as_missing(monkeypatch):
    install = load_install()
    assert install.numbers("2.13.0+cpu") == [2, 13, 0]
    assert install.numbers("unknown") > install.numbers("999.0")
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "2.1.9")
    assert install.missing({"torch": "torch>=2.2"}) == ["torch>=2.2"]
    assert install.missing({"torch": "torch>=2.1"}) == []
    assert install.missing({"no_such_module": "Nothing>=1"}) == ["Nothing>=1"]


def test_an_old_python_is_told_so(monkeypatch, capsys):
    ast.parse((ROOT / "install.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    install = load_install()
    monkeypatch.setattr(install.sys, "version_info", (3, 8, 18))
    assert install.main(["demo"]) == 1
    assert "Python 3.10 or newer is needed; this is 3.8" in capsys.readouterr().out
    assert install.main([]) == 0


def test_its_requirements_are_those_of_the_package():
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install = load_install()
    assert sorted(install.CORE.values()) == sorted(project["dependencies"])
    extras = project["optional-dependencies"]
    assert sorted(install.DEMO.values()) == sorted(project["dependencies"] + extras["diffusers"])
    assert install.TEST["pytest"] in extras["dev"]

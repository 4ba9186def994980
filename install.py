"""One script for newcomers, developers and hosts; it needs nothing but Python.

    python3 install.py demo     erase a concept from the bundled model: pictures, table and files
    python3 install.py test     run the tests
    python3 install.py          what a host runs after cloning or at start: only says what is missing, changes nothing

demo and test use the Python they are started with if it has the packages. Otherwise they make a folder .venv beside
this file once and use that. Inside a host (ComfyUI, AUTOMATIC1111, Forge) they never install anything.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent  # noqa: PTH100 - a symlinked folder must keep its host's path
VENV = HERE / ".venv"
MARKER = VENV / "membrane.txt"  # exists only in an environment made here; lists what is installed, written last

CORE = {"torch": "torch>=2.2", "safetensors": "safetensors>=0.4", "numpy": "numpy>=1.26"}
DEMO = {
    **CORE,
    "diffusers": "diffusers>=0.30",
    "transformers": "transformers>=4.44",
    "PIL": "Pillow>=10",
    "tqdm": "tqdm>=4.60",
}
TEST = {**DEMO, "pytest": "pytest>=8"}


class Stop(Exception):
    """Ends the script with this sentence and exit code 1."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if sys.version_info < (3, 10):  # noqa: UP036 - exactly the case this sentence is for
        print("Python 3.10 or newer is needed; this is %d.%d (%s)." % (*sys.version_info[:2], sys.executable))  # noqa: UP031
        return 1 if arguments else 0
    if not arguments:
        return host_hook()
    options, rest = parse(arguments)
    try:
        if options.command == "demo":
            return run(interpreter(DEMO), ["-m", "erasure_core", "demo", *demo_arguments(options)], Path.cwd())
        # A host measures what lies in its packs' folders, so nothing may be left in there.
        tidy = ["-p", "no:cacheprovider"] if in_host() else []
        return run(interpreter(TEST), ["-m", "pytest", *tidy, *rest], HERE)
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command and its options; what follows ``test`` is handed to pytest as it is."""
    parser = argparse.ArgumentParser(
        prog="install.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="MEMBRANE_TORCH=SPEC chooses the torch that goes into .venv, for example MEMBRANE_TORCH=torch==2.13.0.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | test")
    demo = commands.add_parser("demo", help="erase a concept from the bundled model and measure it")
    demo.add_argument("--concept", help="what to erase (default: circle)")
    demo.add_argument("--anchor", help="what to draw instead (default: another word of the sort, square for circle)")
    demo.add_argument("--out", help="folder for pictures and files (default: out/demo)")
    commands.add_parser("test", help="run the tests; further arguments go to pytest", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command == "demo":
        demo.error(f"unknown argument {rest[0]}")
    return options, rest


def demo_arguments(options: argparse.Namespace) -> list[str]:
    """The demo's options as ``python -m erasure_core demo`` takes them."""
    given = {"--concept": options.concept, "--anchor": options.anchor, "--out": options.out}
    return [text for name, value in given.items() if value is not None for text in (name, value)]


def host_hook() -> int:
    """What a host calls: silent when all is there; it never installs, writes or downloads."""
    lacking = missing(CORE)
    if lacking:
        print(f"Membrane: {sys.executable} lacks {', '.join(lacking)}; nothing was installed. {advice(lacking)}")
    return 0


def advice(lacking: list[str]) -> str:
    """How to get what is missing."""
    specs = " ".join(f'"{spec}"' for spec in lacking)
    text = f'To add it: "{sys.executable}" -m pip install {specs}'
    return text if in_host() else f"{text} - or try the demo in an environment of its own: python3 install.py demo"


def interpreter(needed: dict[str, str]) -> str:
    """A Python that has everything: this one, or that of ``.venv``, made or repaired where that is ours to do."""
    lacking = missing(needed)
    if not lacking:
        return sys.executable
    if in_host():
        raise Stop(
            f"this is a host's environment, so nothing is installed. {sys.executable} lacks {', '.join(lacking)}. "
            f"{advice(lacking)}"
        )
    wanted = [os.environ.get("MEMBRANE_TORCH", spec) if name == "torch" else spec for name, spec in needed.items()]
    return environment(wanted)


def missing(needed: dict[str, str]) -> list[str]:
    """Requirements that this interpreter lacks or has too old, found without importing anything."""
    return [spec for name, spec in needed.items() if importlib.util.find_spec(name) is None or too_old(spec)]


def too_old(spec: str) -> bool:
    """True if the installed version is below the one after ``>=``; an unreadable version counts as new enough."""
    name, _, least = spec.partition(">=")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return numbers(version) < numbers(least)


def numbers(version: str) -> list[int]:
    """The leading numbers of a version: 2.13.0+cpu is [2, 13, 0]."""
    found = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in found.group().split(".")] if found else [sys.maxsize]


def in_host() -> bool:
    """True inside a host's folder of packs, or when a host's own interpreter runs this file."""
    if any(parent.name in ("custom_nodes", "extensions") for parent in HERE.parents):
        return True
    if importlib.util.find_spec("comfyui_frontend_package") is not None:
        return True
    prefix = Path(sys.prefix)
    roots = [prefix.parent, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    if prefix.name.startswith("python_embed"):  # the portable ComfyUI keeps its Python beside its checkout
        roots.append(prefix.parent / "ComfyUI")
    return any(map(is_host, roots))


def is_host(folder: Path) -> bool:
    """True for a checkout of ComfyUI, or of AUTOMATIC1111's web UI and its relatives."""
    return (folder / "comfy" / "sd.py").is_file() or (folder / "modules" / "launch_utils.py").is_file()


def environment(wanted: list[str]) -> str:
    """The interpreter of ``.venv`` with everything wanted installed."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ours = MARKER.is_file()
    present = MARKER.read_text(encoding="utf-8").split() if ours else []
    if VENV.exists() and not ours:
        return foreign(python, wanted)
    if not present or not works(python):
        make(python)
        present = []
    if not set(wanted) <= set(present):
        print(f"Installing {', '.join(wanted)} into {VENV} ...", flush=True)
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted]
        if subprocess.call(command) != 0:
            raise Stop("pip could not install the packages; its last lines say why. Mend that and run the same again.")
        remember(sorted({*present, *wanted}))
    return str(python)


def make(python: Path) -> None:
    """A new, empty ``.venv``. The empty marker comes first, so that a broken attempt is known as ours and replaced."""
    print(f"Making {VENV} (once; torch is a large download) ...", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(parents=True, exist_ok=True)
    remember([])
    if subprocess.call([sys.executable, "-m", "venv", str(VENV)]) != 0 or not works(python):
        raise Stop(
            f"{sys.executable} cannot make a virtual environment. On Debian and Ubuntu install python3-venv first, "
            "then run the same again."
        )


def remember(installed: list[str]) -> None:
    """Write the marker in one step."""
    draft = MARKER.with_suffix(".new")
    draft.write_text("\n".join(installed), encoding="utf-8")
    draft.replace(MARKER)


def foreign(python: Path, wanted: list[str]) -> str:
    """Use a ``.venv`` that somebody else made if it has everything; never change it."""
    names = [re.split("[=<>!~ @]", spec)[0] for spec in wanted]
    check = "import sys, importlib.metadata as m; [m.version(n) for n in sys.argv[1:]]"
    if python.is_file() and subprocess.call([str(python), "-c", check, *names], stderr=subprocess.DEVNULL) == 0:
        return str(python)
    raise Stop(
        f"{VENV} exists, was not made by this script and lacks some of {', '.join(names)}. "
        f'Install them there ("{python}" -m pip install ...), or move the folder away and run the same again.'
    )


def works(python: Path) -> bool:
    """True if the interpreter starts; one whose system Python was removed does not."""
    return python.is_file() and subprocess.call([str(python), "-c", ""], stderr=subprocess.DEVNULL) == 0


def run(python: str, arguments: list[str], folder: Path) -> int:
    """Run a module of this checkout in ``folder`` and return its exit code."""
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), variables.get("PYTHONPATH")]))
    if in_host():
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
    process = subprocess.Popen([python, *arguments], cwd=str(folder), env=variables)
    while process.returncode is None:
        with contextlib.suppress(KeyboardInterrupt):  # the child got it, too, and may still be tidying up
            process.wait()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())

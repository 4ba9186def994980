"""Running a piece of code with the host's interpreter, for tests that compare with the host itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = os.environ.get("COMFYUI_PATH")
needs_host = pytest.mark.skipif(not HOST, reason="COMFYUI_PATH is not set")
_HEAD = """
import sys
sys.path[:0] = [{host!r}, {root!r}]
sys.argv = ["x", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
"""


def ask(code, **values):
    """What ``code`` prints as JSON after ``ANSWER``; ``values`` are its global names."""
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    head = _HEAD.format(host=HOST, root=str(ROOT)) + given
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, "-c", head + code], cwd=HOST, env=env, capture_output=True, text=True, timeout=300)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert done.returncode == 0 and answers, done.stderr[-3000:]
    return json.loads(answers[-1].removeprefix("ANSWER "))

"""Our name tables equal ComfyUI's own, asked in a process of its interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = os.environ.get("COMFYUI_PATH")
pytestmark = pytest.mark.skipif(not HOST, reason="COMFYUI_PATH is not set")

ASK = """
import sys
sys.path[:0] = [HOST, ROOT]
sys.argv = ["x", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import json
import comfy.utils
from erasure_core.keys import SD1, SD2, SDXL, Family, UNetLayout, ldm_names

TINY = UNetLayout((32, 64, 64), ((1,), (1,), (0,)), 1, ((0, 0), (1, 1), (1, 1)), 64, False, 128)
DEMO = UNetLayout((64, 96), ((1,), (0,)), 1, ((0, 0), (1, 1)), 64, False, 256, inputs=8, outputs=8)


def compare(layout):
    flat = [depth for level in layout.down for depth in level]
    up = [depth for level in layout.up for depth in level]
    config = dict(
        num_res_blocks=[len(level) for level in layout.down],
        channel_mult=[c // layout.channels[0] for c in layout.channels],
        transformer_depth=flat,
        transformer_depth_output=up[::-1],
        transformer_depth_middle=layout.middle,
    )
    theirs = comfy.utils.unet_to_diffusers(config)
    ours = ldm_names(layout)
    return {
        "weights": len(ours),
        "differ": sorted(n for n in ours if theirs.get(n) != ours[n])[:5],
    }


layouts = {"sd1": SD1.unet, "sd2": SD2.unet, "sdxl": SDXL.unet, "tiny": TINY, "demo": DEMO}
print("ANSWER " + json.dumps({name: compare(layout) for name, layout in layouts.items()}))
"""


def ask(code):
    """What ``code`` prints after ANSWER, run by the host's interpreter."""
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    head = f"HOST, ROOT = {HOST!r}, {str(ROOT)!r}\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, "-c", head + code], cwd=HOST, env=env, capture_output=True, text=True, timeout=300)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert done.returncode == 0 and answers, done.stderr[-3000:]
    return json.loads(answers[-1].removeprefix("ANSWER "))


def test_names_of_every_unet_weight_equal_the_hosts():
    answer = ask(ASK)
    assert {name: found["weights"] for name, found in answer.items()} == {
        "sd1": 686,
        "sd2": 686,
        "sdxl": 1680,
        "tiny": 324,
        "demo": 208,
    }
    assert {name: found["differ"] for name, found in answer.items()} == dict.fromkeys(answer, [])

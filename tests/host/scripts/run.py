"""Runs one script of this folder with ComfyUI as a library: ``run.py NAME`` reads JSON and prints ``ANSWER`` and JSON.

The host's own interpreter executes it, with the host first on the path. Each script has ``main(**values)`` and is run
as a node would be: in inference mode. Warnings that our own modules raise are errors.
"""

import importlib
import json
import os
import sys
import warnings
from pathlib import Path


def start(base):
    """ComfyUI's library with ``base`` as its folder of models and results, so that nothing is written elsewhere."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.path.append(str(Path(__file__).resolve().parents[3]))  # for erasure_core; the host's own nodes.py comes first
    sys.argv = ["x", "--cpu", "--base-directory", base]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401 - first, as in main.py: the host has two things of the name utils

    warnings.filterwarnings("error", module=r"(membrane_pack|erasure_core)\b")


if __name__ == "__main__":
    name, values = sys.argv[1], json.load(sys.stdin)
    start(values.pop("base"))
    import torch

    with torch.inference_mode():
        answer = importlib.import_module(name).main(**values)
    sys.stdout.write("ANSWER " + json.dumps(answer) + "\n")

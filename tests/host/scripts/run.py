"""Runs scripts of this folder with ComfyUI as a library, for ``library.py``; executed by the host's interpreter.

Each line of input asks for one script; "done" or "failed" is the answer, results are files. The host is imported once
and first on the path. Each script runs in a fork of this process (where there is no such thing: in this process, which
then ends) as a node would: in inference mode. Warnings that our own modules raise are errors.
"""

import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def start(base):
    """ComfyUI's library with ``base`` as its folder of models and results, so that nothing is written elsewhere."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.path.append(str(ROOT))  # for erasure_core; the host's own nodes.py comes first
    sys.argv = ["x", "--cpu", "--base-directory", base]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # noqa: F401, I001 - first, as in main.py: the host has two things of the name utils
    import comfy.controlnet
    import comfy.sample
    import nodes  # noqa: F401
    import server  # noqa: F401


def serve(script, answer, values):
    """Run ``main`` of a script with the host's folders at ``base``."""
    import comfy.cli_args
    import folder_paths
    import torch

    comfy.cli_args.args.base_directory = values.pop("base")
    importlib.reload(folder_paths)
    warnings.filterwarnings("error", module=r"(membrane_pack|erasure_core)\b")
    with torch.inference_mode():
        found = importlib.import_module(script).main(**values)
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def in_a_fork(script, answer, words, limit, values):
    """True if the script came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        signal.alarm(limit)
        out = os.open(words, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        serve(script, answer, values)
        status = 0
    except BaseException:  # noqa: BLE001 - a child never returns to the loop of its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main():
    start(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if hasattr(os, "fork"):
            done = in_a_fork(**request)
        else:
            serve(request["script"], request["answer"], request["values"])
            done = True
        sys.stdout.write("done\n" if done else "failed\n")
        sys.stdout.flush()
        if not hasattr(os, "fork"):
            break


if __name__ == "__main__":
    main()
